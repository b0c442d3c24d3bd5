#!/usr/bin/env bash
# Makes a Vulkan adapter available for the webgpu device: Mesa's software adapter (lavapipe) where
# no adapter works yet. Quick and silent when one does. Needs root to install; without it, or on a
# system it does not know, it says what to install and exits 1.
#
# Debian 12 ships Mesa 22.3, which Dawn refuses, so there the driver comes from backports: the
# archive's address and key are those of the machine's own apt sources.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  echo "setup-vulkan: $*" >&2
  exit 1
}

# Asks Dawn itself where it is installed; else looks for a driver of any kind.
adapter_works() {
  if [ -d node_modules/webgpu ] && command -v node >/dev/null; then
    node --input-type=module -e '
      import { create } from "webgpu"
      const gpu = create([])
      const adapter = await gpu.requestAdapter()
      process.exit(adapter ? 0 : 1)' >/dev/null 2>&1
  elif command -v vulkaninfo >/dev/null; then
    vulkaninfo --summary >/dev/null 2>&1
  else
    compgen -G '/usr/share/vulkan/icd.d/*.json' >/dev/null ||
      compgen -G '/etc/vulkan/icd.d/*.json' >/dev/null
  fi
}

# Entries for suite $1 in the deb822 file $3, rewritten for suite $2; nothing if there are none.
entry_from_sources() {
  awk -v suite="$1" -v wanted="$2" '
    BEGIN { RS = ""; FS = "\n" }
    {
      binary = matches = 0
      text = ""
      for (i = 1; i <= NF; i++) {
        if ($i ~ /^#/) continue
        if ($i ~ /^Enabled:[ \t]*no/) next
        if ($i ~ /^Types:(.*[ \t])?deb([ \t]|$)/) { binary = 1; $i = "Types: deb" }
        if ($i ~ "^Suites:(.*[ \t])?" suite "([ \t]|$)") { matches = 1; $i = "Suites: " wanted }
        if ($i ~ /^Components:/) $i = "Components: main"
        text = text $i "\n"
      }
      if (binary && matches) { printf "%s", text; exit }
    }' "$3"
}

# The same for a one-line-style file.
entry_from_list() {
  sed -nE "s~^[ \t]*(deb[ \t]+(\[[^]]*\][ \t]+)?[^ \t]+[ \t]+)$1[ \t].*~\1$2 main~p" "$3" | sed 1q
}

# Adds the apt source for suite $2 beside the one that this machine has for suite $1.
add_suite() {
  local file kind entry
  for file in /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list \
    /etc/apt/sources.list; do
    [ -f "$file" ] || continue
    kind=list
    case "$file" in *.sources) kind=sources ;; esac
    entry=$("entry_from_$kind" "$1" "$2" "$file")
    if [ -n "$entry" ]; then
      printf '%s\n' "$entry" >"/etc/apt/sources.list.d/zo2-$2.$kind"
      return
    fi
  done
  fail "no apt source for $1 was found in /etc/apt: add $2 there, then run: $hint"
}

install() {
  export DEBIAN_FRONTEND=noninteractive
  case "$hint" in
    apt-get*)
      apt-get update -qq || return
      # No grep -q: it would break the pipe before apt-cache is done.
      if [[ "$hint" = *"$backports"* ]] && ! apt-cache policy | grep "n=$backports" >/dev/null; then
        add_suite bookworm "$backports"
        apt-get update -qq || return
      fi
      # shellcheck disable=SC2086
      apt-get install -y -qq --no-install-recommends ${hint#apt-get install } >/dev/null
      ;;
    dnf*) dnf install -y -q ${hint#dnf install } >/dev/null ;;
    pacman*) pacman -Sy --noconfirm --needed ${hint#pacman -S } >/dev/null ;;
    zypper*) zypper --non-interactive install ${hint#zypper install } >/dev/null ;;
  esac
}

adapter_works && exit 0

[ "$(uname -s)" = Linux ] ||
  fail 'no GPU adapter was found; WebGPU needs the graphics driver of this machine: install it'

# shellcheck disable=SC1091
{ [ -r /etc/os-release ] && . /etc/os-release; } || ID=unknown
backports=bookworm-backports
case " ${ID:-} ${ID_LIKE:-} " in
  *' debian '* | *' ubuntu '*) hint='apt-get install mesa-vulkan-drivers libvulkan1' ;;
  *' fedora '* | *' rhel '*) hint='dnf install mesa-vulkan-drivers vulkan-loader' ;;
  *' arch '*) hint='pacman -S vulkan-swrast vulkan-icd-loader' ;;
  *' suse '* | *' opensuse '*) hint='zypper install libvulkan_lvp libvulkan1' ;;
  *) fail "no Vulkan adapter was found and system '${ID:-}' is unknown here: install Mesa's" \
    'lavapipe driver (25.0 is known to work) and the Vulkan loader, libvulkan.so.1' ;;
esac
if [ "${ID:-}" = debian ] && [ "${VERSION_CODENAME:-}" = bookworm ]; then
  hint="apt-get install -t $backports mesa-vulkan-drivers libvulkan1"
fi
[ "$(id -u)" = 0 ] ||
  fail "no Vulkan adapter was found; run scripts/setup-vulkan.sh as root (it does: $hint)"

echo "setup-vulkan: $hint" >&2
install || fail "the packages could not be installed; try by hand: $hint"
adapter_works || fail 'the driver is installed, but WebGPU (Dawn) still finds no adapter:' \
  'it needs a newer Mesa (25.0 is known to work) or the driver of a GPU'
