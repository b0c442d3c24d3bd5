#!/usr/bin/env bash
# Installs the packed package in empty projects by every package manager, and a clone by npm, each in a
# network namespace that reaches nothing but a registry, with an empty home and no environment variables;
# then uses it, with the registry gone: `npx zo2 env`, a short finetune on the cpu device, a program that
# imports zo2. Prints a table. Needs Linux, `ip` and root (or user namespaces), an npm registry; everything
# it makes is in out/check-install. What is committed is what the clone has.
#   bash scripts/check-install.sh [row ...]     rows: see the end of this file; by default all of them
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"

root=$PWD here=$PWD/scripts/check-install work=$PWD/out/check-install port=4873
socket=$work/registry.sock
export root here work port socket
mkdir -p "$work/tools"
rm -rf "$work/rows" "$work/packed" "$work/storage/zo2" "$work/storage/@zo2" "$work/table" "$socket"

# Package managers, and the registry: tool NAME PACKAGE. verdaccio needs an override to install.
tool() {
  local home=$work/tools/$1
  [ -d "$home/node_modules" ] && return
  mkdir -p "$home"
  echo '{ "private": true, "overrides": { "node-fetch": "2.7.0" } }' >"$home/package.json"
  npm install --prefix "$home" --no-audit --no-fund --loglevel=error "$2" >&2
}
tool npm10 npm@10.9.9
tool npm11 npm@11.19.1
tool pnpm10 pnpm@10.34.9
tool pnpm12 pnpm@12.4.2
tool yarn1 yarn@1.22.22
tool yarn4 @yarnpkg/cli-dist@4.18.1
tool registry verdaccio@6.8.0

echo "packing ..." >&2
mkdir -p "$work/packed"
npm pack --silent --pack-destination "$work/packed" >&2
tarball=$(ls "$work"/packed/zo2-*.tgz)
node scripts/release.mjs "$work/packed/release" >&2
rm -rf "$work/clone" && git clone --quiet "$root" "$work/clone"

upstream=$(npm config get registry) storage=$work/storage
export tarball upstream storage
sed "s#STORAGE#$storage#; s#UPSTREAM#$upstream#" "$here/verdaccio.yaml" >"$work/verdaccio.yaml"
"$work/tools/registry/node_modules/.bin/verdaccio" --config "$work/verdaccio.yaml" \
  --listen "unix:$socket" >"$work/registry.log" 2>&1 &
registry=$!
trap 'kill $registry' EXIT
until [ -S "$socket" ]; do kill -0 $registry && sleep 0.2; done

# Runs the command in $1 in a network namespace of its own; only the registry is there, if $2 is `online`.
namespace=(unshare --net)
[ "$(id -u)" = 0 ] || namespace=(unshare --user --map-root-user --net)
inside() {
  env -i PATH="$PATH" HOME="$HOME" "${namespace[@]}" bash -c '
    ip link set lo up
    if [ "$2" = online ]; then
      node "$3/forward.mjs" "$4" "$5" "$HOME/received" &
      trap "kill $!; wait $! || true" EXIT
      until [ -s "$HOME/received" ]; do sleep 0.1; done
    fi
    bash -euc "$1"' inside "$1" "$2" "$here" "$port" "$socket"
}

# An empty home that knows the registry, as each manager wants to be told.
make_home() {
  mkdir -p "$1"
  local url=http://127.0.0.1:$port/
  printf 'registry=%s\n//127.0.0.1:%s/:_authToken=any\n' "$url" "$port" >"$1/.npmrc"
  # Root's cache is not at home otherwise.
  printf 'registry "%s"\ncache-folder "%s"\n' "$url" "$1/yarn-cache" >"$1/.yarnrc"
  # Packages published a minute ago, as zo2 here, are held back otherwise.
  printf '%s\n' "npmRegistryServer: '$url'" 'unsafeHttpWhitelist: [127.0.0.1]' \
    'nodeLinker: node-modules' 'npmMinimalAgeGate: 0' >"$1/.yarnrc.yml"
}

# The folder $1 with zo2 installed or cloned, used without any network; says the results.
use() {
  local finetune="finetune $root/test/fixtures/tiny-opt --method mezo-sgd --device cpu --steps 3
    --train $2/examples/tinyshakespeare/train.txt --batch-size 2 --max-length 16 --lr 1e-6 --eps 1e-3
    --output-dir $HOME/run"
  local results=()
  for command in "npx --offline zo2 env" "npx --offline zo2 ${finetune//$'\n'/ } --quiet" \
    "node program.mjs $root/test/fixtures/tiny-opt"; do
    if inside "cd $1; $command" offline >>"$HOME/log" 2>&1; then results+=(ok); else results+=(FAILED); fi
  done
  echo "${results[*]}"
}

# row NAME MANAGER 'COMMAND' [clone]: one line of the table.
row() {
  [ ${#wanted[@]} = 0 ] || [[ " ${wanted[*]} " = *" $1 "* ]] || return 0
  echo "$1 ..." >&2
  local HOME=$work/rows/$1/home project=$work/rows/$1/project
  local PATH=$work/tools/$2/node_modules/.bin:$PATH zo2 modules result=ok
  export HOME PATH
  make_home "$HOME"
  if [ "${4:-}" = clone ]; then
    git clone --quiet "$work/clone" "$project"
    zo2=$project
  else
    mkdir -p "$project"
    echo '{ "name": "empty", "private": true }' >"$project/package.json"
    zo2=$project/node_modules/zo2
  fi
  local start=$EPOCHREALTIME
  inside "cd $project; $3" online >"$HOME/log" 2>&1 || result=FAILED
  ! grep -qiE 'npm warn|build scripts|install.scripts' "$HOME/log" || result=WARNED
  local seconds=$(((${EPOCHREALTIME/./} - ${start/./}) / 1000000))
  modules=$(du -sb "$project/node_modules" | cut -f1)
  cp "$here/program.mjs" "$project/"
  read -r env finetune program <<<"$(use "$project" "$zo2")"
  printf '| %s | %s | %d | %d | %d | %s | %s | %s | %s |\n' "$1" "$3" "$seconds" \
    $(($(cat "$HOME/received") / 1000000)) $((modules / 1000000)) \
    "$result" "$env" "$finetune" "$program" | tee -a "$work/table" >&2
}

publish() {
  local HOME=$work/rows/publish
  make_home "$HOME"
  for archive in "$work"/packed/release/zo2-*-*-*.tgz "$work"/packed/release/zo2-[0-9]*.tgz; do
    inside "npm publish --silent $archive" online >&2
  done
}

wanted=("$@")
publish
file=file:$tarball
row npm10 npm10 "npm install $tarball"
row npm11 npm11 "npm install $tarball"
row pnpm10 pnpm10 "pnpm add $tarball"
row pnpm12 pnpm12 "pnpm add $tarball"
row yarn1 yarn1 "yarn add $file"
row yarn4 yarn4 "touch yarn.lock; yarn add zo2@$file"
row npm10-published npm10 "npm install zo2"
row npm11-published npm11 "npm install zo2"
row pnpm10-published pnpm10 "pnpm add zo2"
row pnpm12-published pnpm12 "pnpm add zo2"
row yarn1-published yarn1 "yarn add zo2"
row yarn4-published yarn4 "touch yarn.lock; yarn add zo2"
row npm10-clone npm10 "npm ci" clone
row npm11-clone npm11 "npm ci" clone

echo
echo '| row | command | seconds | MB received | MB in node_modules | install | env | finetune | program |'
echo '| --- | --- | ---: | ---: | ---: | --- | --- | --- | --- |'
sed "s#$work/packed/##" "$work/table"
echo
! grep -qE 'FAILED|WARNED' "$work/table"
