"""PUT /references: what prompts' responses are compared with where a trainer sends nothing but prompt and response."""

from __future__ import annotations

from fastapi import APIRouter

from service.routes.base import DOCUMENTED, TheService, guarded
from service.schemas.replies import ReferencesReply
from service.schemas.requests import ReferencesRequest, to_prompt
from service.stores.references_base import key_of

router = APIRouter(route_class=guarded("queue"), dependencies=DOCUMENTED, tags=["queues"])


@router.put("/references")
async def put_references(body: ReferencesRequest, service: TheService) -> ReferencesReply:
    """Store a reference for each prompt, in the place of an earlier one. They are shared by all callers."""
    references = {key_of(to_prompt(item.prompt)): item.reference for item in body.items}
    return ReferencesReply(stored=len(references), total=await service.references.put(references))
