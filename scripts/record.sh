# What record-memory.sh and record-throughput.sh share: arguments, and one `zo2 bench` and `zo2 plan`
# per size, device and method, whose JSON goes line by line to $out and to ...-plan.jsonl beside it. Sourced, with $out, $steps and $slab set.
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"

all=(opt-125m opt-350m opt-1.3b opt-2.7b opt-6.7b opt-13b opt-30b opt-66b opt-175b)
sizes=() devices=cpu methods='mezo-sgd lozo' batch=1 tokens=2048 memory=24GiB layers= adapter=

usage() {
  cat >&2 <<USAGE
usage: $0 [options] SIZE... | all        all: ${all[*]}; others: zo2 plan --help
  --methods 'a b'   default '$methods'           --batch n, --tokens n   default $batch x $tokens
  --devices 'a b'   default cpu, and webgpu if   --layers n              that many at full width
                    there is a hardware adapter  --steps n               default $steps
  --adapter name    webgpu on this adapter too   --slab s, --memory s    default $slab, $memory
USAGE
  exit 2
}

if node dist/src/cli/bin.js env --json 2>/dev/null | grep -q '"software":false'; then devices='cpu webgpu'; fi
while [ $# -gt 0 ]; do
  case "$1" in
    --adapter) adapter="${2:?}" devices='cpu webgpu' ;;
    --methods | --devices | --batch | --tokens | --layers | --steps | --slab | --memory)
      declare "${1#--}=${2:?}" ;;
    all) sizes=("${all[@]}") && shift && continue ;;
    -*) usage ;;
    *) sizes+=("$1") && shift && continue ;;
  esac
  shift 2
done
[ ${#sizes[@]} -gt 0 ] || usage

# One line of JSON per run: record SIZE LAYERS ('': all).
record() {
  local device method
  for device in $devices; do
    for method in $methods; do
      local on=(--device "$device")
      if [ "$device" = webgpu ] && [ -n "$adapter" ]; then on+=(--adapter "$adapter"); fi
      echo "$1 ${2:+to depth $2, }$method $device" >&2
      local args=(--synthetic "$1" ${2:+--layers "$2"} --method "$method" "${on[@]}"
        --batch-size "$batch" --max-length "$tokens" --memory "$memory" --slab "$slab"
        --resident none --steps "$steps" --quiet --json)
      node dist/src/cli/bin.js bench "${args[@]}" >>"$out"
      node dist/src/cli/bin.js plan "${args[@]}" >>"${out%.jsonl}-plan.jsonl"
    done
  done
}

mkdir -p out
rm -f "$out" "${out%.jsonl}-plan.jsonl"
