"""The settings of answers that a vLLM server samples, known without torch."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator


class VLLMOptions(BaseModel):
    """A running server of the policy that a stage starts from; each step sends it the adapter.

    `max_logp_difference` is the most that its log-probabilities may differ from ours, in the mean over a step's tokens.
    The default is for a server in bf16 (small models differ by 0.01 to 0.02); for one in float32 give 0.001.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    vllm: str  # its address, as http://127.0.0.1:8000
    adapter_folder: str | None = None  # a folder that both see at one path; None: in the run's own
    max_logp_difference: float = Field(0.05, gt=0)  # nats a token
    timeout: float = Field(300.0, gt=0)  # seconds for one answer
    parallel: int = Field(64, ge=1, le=1024)  # answers asked for at a time

    @field_validator("vllm")
    @classmethod
    def an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("leave keys out of the address; the API key is read from VLLM_API_KEY")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address; write it as http://127.0.0.1:8000")
        url = url.rstrip("/")
        if url.endswith("/v1"):
            raise ValueError(f"{url}: leave out /v1, the server's own routes stand beside it")
        return url
