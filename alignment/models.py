"""The only place that loads weights, tokenizers and adapters. Master weights are fp32; training autocasts to bf16.

References and fetching are in alignment/sources/, LoRA in alignment/lora.py, writing in alignment/saving.py; what
the rest of the package needs of them is exported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.dropout import switch_off_dropout
from alignment.errors import ModelError
from alignment.generation.turn_end import remember_end
from alignment.lora import LoraSettings, add_lora, merge_adapter
from alignment.registry import ModelRegistry
from alignment.runtime import autocast, autocast_bf16, pick_device, quiet
from alignment.saving import save_adapter, save_model
from alignment.sources import Say, cache_folder
from alignment.sources.folder import read_object
from alignment.sources.pypi import PYPI_MODELS, verify_cached
from alignment.sources.refs import ModelRef, parse_ref
from alignment.sources.resolve import ModelPart, ResolvedModel, log, model_digest, resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "PYPI_MODELS",
    "LoraSettings",
    "ModelPart",
    "ModelRef",
    "ResolvedModel",
    "add_lora",
    "autocast",
    "autocast_bf16",
    "cache_folder",
    "check_chat_template",
    "load_language_model",
    "load_policy",
    "load_reward",
    "load_tokenizer",
    "model_digest",
    "new_reward_model",
    "parse_ref",
    "pick_device",
    "quiet",
    "read_chat_template",
    "resolve",
    "save_adapter",
    "save_model",
    "verify_cached",
]


def load_policy(
    ref: str,
    registry: ModelRegistry,
    *,
    device: str = "cpu",
    adapter_config: LoraSettings | None = None,
    chat_template: str | Path | None = None,
    say: Say = log,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in fp32 and its tokenizer, in eval mode.

    Stored adapters are merged in order, so the model is always a plain one; with `adapter_config` a fresh LoRA
    adapter is put on it (seed torch before). `chat_template` is a Jinja file that replaces the tokenizer's own.
    The model does not know its path: a trainer that tried to reload "the reference" by name fails instead of
    silently taking the base weights. It does know its reference (`source_ref`), which an adapter is saved with, and,
    in its generation_config, what ends a turn of the template.
    Raises ModelError, RegistryError, StorageError.
    """
    resolved = resolve(ref, registry, say)
    if resolved.role != "policy":
        raise ModelError(f"{ref} is a reward model and cannot generate; give a base or policy model")
    if _is_masked(resolved):
        raise ModelError(f"{ref} is a masked language model and cannot generate; give a causal one")
    model = _policy_weights(resolved.chain, ref)
    model.source_ref = resolved.ref
    tokenizer = _tokenizer(resolved, chat_template)
    remember_end(model, tokenizer)
    if adapter_config is not None:
        model = add_lora(model, adapter_config)
    return model.to(device), tokenizer


def load_language_model(
    ref: str, registry: ModelRegistry, *, device: str = "cpu", say: Say = log
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """As `load_policy`, but a masked language model (BertForMaskedLM...) is loaded as what it is, not refused."""
    from transformers import AutoModelForMaskedLM

    resolved = resolve(ref, registry, say)
    if not _is_masked(resolved):
        return load_policy(ref, registry, device=device, say=say)
    model = _full_weights(AutoModelForMaskedLM, resolved.chain[0], ref)
    model.source_ref = resolved.ref
    return model.eval().to(device), _tokenizer(resolved, None)


def load_reward(
    ref: str, registry: ModelRegistry, *, device: str = "cpu", say: Say = log
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence classifier in fp32, in eval mode, and its tokenizer. It has one label, or one for each of its heads.

    Raises ModelError for a policy, and for a classifier of several labels that its config does not call heads.
    """
    from transformers import AutoModelForSequenceClassification

    from reward.model import marker

    resolved = resolve(ref, registry, say)
    if resolved.role != "reward":
        raise ModelError(f"{ref} is no reward model; a `reward` stage trains one from it")
    tokenizer = _tokenizer(resolved, None)
    full = resolved.chain[0]
    if full.role == "reward":
        model = _full_weights(AutoModelForSequenceClassification, full, ref)
        if model.config.num_labels != marker(model).get("heads", 1):
            raise ModelError(f"{ref}: has {model.config.num_labels} labels; a reward model has one")
        deltas = resolved.chain[1:]
    else:
        deltas = tuple(part for part in resolved.chain if part.role == "reward")
        trunk = _policy_weights(tuple(part for part in resolved.chain if part.role == "policy"), ref)
        model = _with_score_head(trunk, tokenizer.pad_token_id, 0, {})  # the first adapter brings the head
    for part in deltas:
        model = merge_adapter(model, part.folder, part.ref)
    model.source_ref = resolved.ref
    return model.eval().to(device), tokenizer


def new_reward_model(
    policy_ref: str,
    registry: ModelRegistry,
    *,
    seed: int,
    device: str = "cpu",
    adapter_config: LoraSettings | None = None,
    chat_template: str | Path | None = None,
    marker: Mapping[str, Any] | None = None,
    say: Say = log,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A reward model to be trained: the (merged) policy's trunk with a fresh head, in fp32.

    The head is normal with std 1/(hidden + 1) from `seed`, so first scores are near 0 and the first ranking loss
    near ln 2; TRL leaves the library default (std 0.02). `marker` goes into the config (see `reward.model.marker`);
    its `heads` is the number of outputs, each with a seed of its own. Dropout is off, but for a new adapter's.

    transformers pools a score at the last token whose id is not the pad id, so a pad that equals EOS would hide the
    EOS: the tokenizer gets another pad token.
    Raises ModelError when there is none.
    """
    resolved = resolve(policy_ref, registry, say)
    if resolved.role != "policy":
        raise ModelError(f"{policy_ref} is a reward model already; start a new one from a policy")
    tokenizer = _tokenizer(resolved, chat_template)
    tokenizer.pad_token = _pad_token(tokenizer, policy_ref)
    model = _with_score_head(_policy_weights(resolved.chain, policy_ref), tokenizer.pad_token_id, seed, marker or {})
    model.source_ref = resolved.ref
    if found := switch_off_dropout(model):
        say(f"{policy_ref}: its dropout ({found:g}) is off while a reward model is trained from it")
    if adapter_config is not None:
        model = add_lora(model, adapter_config)
    return model.to(device), tokenizer


def load_tokenizer(
    ref: str, registry: ModelRegistry, *, chat_template: str | Path | None = None, say: Say = log
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model: the last one along its chain of adapters. Raises ModelError when it cannot be read."""
    return _tokenizer(resolve(ref, registry, say), chat_template)


def read_chat_template(path: str | Path) -> str:
    """The text of a Jinja chat template file; ModelError when it cannot be read."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"chat_template {path}: cannot be read ({_line(error)}); give a Jinja text file") from error


def check_chat_template(tokenizer: PreTrainedTokenizerBase, ref: str) -> None:
    """Raises ModelError unless the tokenizer renders a conversation that starts without a system message."""
    if not tokenizer.chat_template:
        raise ModelError(
            f"{ref}: its tokenizer has no chat template; give one with the recipe key `chat_template: "
            "path/to/template.jinja` (in Python: chat_template=)"
        )
    question, answer = "What is two plus two?", "Two plus two is four."
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    try:
        prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception as error:  # a template raises what it likes
        raise ModelError(f"{ref}: its chat template fails on user and assistant messages ({_line(error)})") from error
    if question not in prompt or question not in whole or answer not in whole:
        raise ModelError(f"{ref}: its chat template drops the text of user or assistant messages; give another one")


def _is_masked(resolved: ResolvedModel) -> bool:
    if len(resolved.chain) > 1:
        return False
    config = read_object(resolved.path / "config.json", resolved.ref, "write it again")
    return str((config.get("architectures") or [""])[0]).endswith("ForMaskedLM")


def _tokenizer(resolved: ResolvedModel, chat_template: str | Path | None) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    having = [part.folder for part in resolved.chain if (part.folder / "tokenizer_config.json").is_file()]
    if not having:
        raise ModelError(f"{resolved.ref}: {resolved.path} has no tokenizer; write one there with save_pretrained")
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(having[-1], trust_remote_code=False)
        except Exception as error:  # the Rust tokenizer raises bare Exception for a damaged file
            raise ModelError(
                f"{resolved.ref}: the tokenizer in {having[-1]} cannot be read ({_line(error)})"
            ) from error
    if chat_template is not None:
        tokenizer.chat_template = read_chat_template(chat_template)
    return tokenizer


def _policy_weights(chain: tuple[ModelPart, ...], ref: str) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    model = _full_weights(AutoModelForCausalLM, chain[0], ref)
    for part in chain[1:]:
        model = merge_adapter(model, part.folder, part.ref)
    return model.eval()


def _full_weights(auto_class: Any, part: ModelPart, ref: str) -> Any:
    import torch
    from safetensors import SafetensorError

    with quiet():
        try:
            model, report = auto_class.from_pretrained(
                part.folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
            raise ModelError(f"{ref}: {part.folder} cannot be loaded ({_line(error)})") from error
    if missing := sorted(report["missing_keys"]):  # the library would fill them with random numbers
        raise ModelError(f"{ref}: {part.folder} lacks {len(missing)} weights, for example {missing[0]}; save it again")
    model.name_or_path = model.config._name_or_path = ""
    return model


def _with_score_head(policy: PreTrainedModel, pad_id: int, seed: int, marker: Mapping[str, Any]) -> PreTrainedModel:
    """The policy's trunk in a sequence classifier with one label per head. The trunk is moved, not copied."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from reward.model import MARKER

    config, heads = policy.config, int(marker.get("heads", 1))
    config.num_labels, config.pad_token_id = heads, pad_id
    if marker:
        setattr(config, MARKER, dict(marker))
    try:
        with torch.device("meta"):  # only the frame: no memory, no random numbers
            model = AutoModelForSequenceClassification.from_config(config)
        hidden = model.score.in_features
        setattr(model, model.base_model_prefix, policy.base_model)
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{config.model_type} models cannot become reward models here ({_line(error)})") from error
    model.score = torch.nn.Linear(hidden, heads, bias=False, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for head, weight in enumerate(model.score.weight):  # far apart, so that no two runs share a head
            weight.normal_(std=1 / (hidden + 1), generator=torch.Generator().manual_seed(seed + 1_000_003 * head))
    model.get_input_embeddings().padding_idx = pad_id
    model.name_or_path = model.config._name_or_path = ""
    return model.eval()


def _pad_token(tokenizer: PreTrainedTokenizerBase, ref: str) -> str:
    """A special token of the vocabulary other than EOS that never ends a text: its own pad, unk, or one made for it."""
    own = [tokenizer.pad_token, tokenizer.unk_token]
    usual = ["<|endoftext|>", "<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<unk>"]
    known = tokenizer.get_vocab()
    for token in [*own, *(t for t in usual if t in tokenizer.all_special_tokens), tokenizer.bos_token]:
        if token is not None and token in known and token != tokenizer.eos_token:
            return str(token)
    raise ModelError(
        f"{ref}: its tokenizer has no special token besides {tokenizer.eos_token!r} to pad with; add a pad token to it"
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
