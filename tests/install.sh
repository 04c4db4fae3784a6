#!/usr/bin/env bash
# install.sh TOOL:PACKAGE...: install the Debian package of each tool that is missing.
# Quiet when nothing is missing; one clear line when it can't.
set -euo pipefail
missing=()
for pair in "$@"; do
  tool=${pair%%:*} package=${pair##*:}
  if [[ $tool == /* ]]; then [ -e "$tool" ] && continue; else PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null && continue; fi
  missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null; then
  echo "install: missing ${missing[*]}: this machine has no apt-get; install them with its package manager" >&2
  exit 1
fi
if [ "$(id -u)" != 0 ]; then
  echo "install: missing ${missing[*]}: run as root, or first: apt-get install ${missing[*]}" >&2
  exit 1
fi
echo "installing ${missing[*]} …" >&2
export DEBIAN_FRONTEND=noninteractive
# What is installed are programs for tests: no package is to start its daemon.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap 'rm -f $policy' EXIT
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod 755 $policy
fi
apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
if ! log=$("${apt[@]}" update 2>&1 && "${apt[@]}" install -y --no-install-recommends "${missing[@]}" 2>&1); then
  printf 'install: apt-get could not install %s:\n%s\n' "${missing[*]}" "$log" >&2
  exit 1
fi
