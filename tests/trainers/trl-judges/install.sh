#!/bin/sh
exec sh "$(dirname "$0")/../environment.sh" trl-judges "$@"
