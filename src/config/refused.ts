// Options of Hugging Face's Trainer that have no meaning here, and why: the sentence each one gets,
// wherever it is given.

const NO_GRADIENT = 'there is no backward pass'
const NO_OPTIMIZER = 'the method is the optimizer: give method, learningRate, weightDecay, momentum'
const DTYPES =
  'weights have the dtype of their file and all sums are made in f32; dtype is that of the model that is written'
const DEVICE =
  'the device is chosen by device (auto, cpu or webgpu) and adapter, in a program as options of fromPretrained'
const ONE_DEVICE = 'a run has one device'
const LOADER = 'batches are made in memory, in an order that is a function of seed and step'

/** The first pattern that fits a name (camelCase) has its reason. */
const REFUSED: readonly (readonly [names: RegExp, reason: string])[] = [
  [
    /^(optim|optimArgs|optimTargetModules|adamBeta[12]|adamEpsilon|adafactor|lrSchedulerKwargs|lrScheduleKwargs)$/,
    NO_OPTIMIZER,
  ],
  [/^maxGradNorm$/, `${NO_GRADIENT}, so there is no gradient's norm to clip`],
  [/^gradientCheckpointing(Kwargs)?$/, `${NO_GRADIENT} that would need activations again`],
  [/^neftuneNoiseAlpha$/, 'the probes of a step must see the same network, without noise'],
  [/^labelSmoothingFactor$/, 'give an objective of your own, which may smooth labels'],
  [/^(fp16|bf16|tf32|halfPrecisionBackend|fp16\w+|bf16\w+|useApex)$/, DTYPES],
  [/^(noCuda|useCpu|useIpex|useMpsDevice|jitModeEval|xpuBackend)$/, DEVICE],
  [
    /^(deepspeed|fsdp\w*|ddp\w*|localRank|tpu\w*|acceleratorConfig|parallelismConfig|splitBatches|sharded\w*|dispatchBatches|averageTokensAcrossDevices|logOnEachNode|saveOnEachNode|nGpu)$/,
    ONE_DEVICE,
  ],
  [
    /^(torch\w+|useLigerKernel|ligerKernelConfig|includeTokensPerSecond|includeNumInputTokensSeen|skipMemoryMetrics|autoFindBatchSize)$/,
    'PyTorch does not run here; memory and speed are in metrics.jsonl',
  ],
  [/^(dataloader\w+|removeUnusedColumns|groupByLength|lengthColumnName|ignoreDataSkip)$/, LOADER],
  [/^padding(Side)?$/, 'texts are packed without padding: only their own tokens are computed'],
  [/^dataSeed$/, 'seed serves noise and the order of examples'],
  [/^fullDeterminism$/, 'every run is deterministic'],
  [
    /^evalAccumulationSteps$/,
    'computeMetrics gets labelled positions only, on the host; see preprocessLogitsForMetrics',
  ],
  [
    /^(evalDoConcatBatches|batchEvalMetrics|includeInputsForMetrics|includeForMetrics|labelNames|predictionLossOnly|evalDelay|evalUseGatherObject)$/,
    'evaluations cover all labelled tokens of the held-out data',
  ],
  [
    /^(pushToHub\w*|hub\w+)$/,
    'a run does not upload; do that with the folder that saveModel writes',
  ],
  [/^saveSafetensors$/, 'weights are always saved as safetensors'],
  [/^saveOnlyModel$/, 'the journal is all a run needs to be resumed'],
  [
    /^overwriteOutputDir$/,
    'a folder that holds a run is never overwritten; take another outputDir, or resumeFromCheckpoint',
  ],
  [/^(loggingDir|runName)$/, "records lie in outputDir, TensorBoard's in outputDir/runs"],
  [
    /^(loggingStrategy|loggingFirstStep|loggingNanInfFilter|logLevel|logLevelReplica|project|tracking\w*)$/,
    'metrics.jsonl has every step; loggingSteps says how many lines are shown, disableTqdm none',
  ],
  [/^(doTrain|doEval|doPredict)$/, 'call train(), evaluate() or predict()'],
  [/^perGpu(Train|Eval)BatchSize$/, 'give perDeviceTrainBatchSize or perDeviceEvalBatchSize'],
  [
    /^(pastIndex|debug|rayScopes?|mpParameters|restoreCallbackStatesFromCheckpoint)$/,
    'it has no meaning here',
  ],
]

/** Why an option, in any spelling, has no meaning here; undefined for all others. */
export function reasonAgainst(key: string): string | undefined {
  const name = key.replace(/[-_]([a-z0-9])/g, (_, c: string) => c.toUpperCase())
  return REFUSED.find(([names]) => names.test(name))?.[1]
}
