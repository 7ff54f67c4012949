"""The paper's large-language-model step: the attributes of Eq. 1 for a tumour that nothing knows yet."""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.prompts.section import TEXT_KEYS

MAX_ATTRIBUTE_LENGTH = 120  # characters; MiniLM reads 256 tokens, and the template must fit
MAX_ANSWER_BYTES = 1_000_000

_INSTRUCTION = (
    "You are a radiologist. For the tumor that the user names, answer with one JSON object and nothing else, with the "
    'keys "tumor" (its usual name), "organ" (where it lies), "shape" (two to six words that go before "mass"), "edge" '
    '(one to four words that go before "borders") and "modality" (the imaging modality that shows it best). Each value '
    "is a short text, in lower case except for abbreviations."
)


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible chat endpoint."""

    url: str
    model: str
    key: str = ""

    @classmethod
    def from_environment(cls) -> Endpoint:
        """By MASTPRO_LLM_URL, MASTPRO_LLM_MODEL and, where one is needed, MASTPRO_LLM_KEY."""
        url, model = os.environ.get("MASTPRO_LLM_URL", ""), os.environ.get("MASTPRO_LLM_MODEL", "")
        if not url:
            raise MASTProError(
                "MASTPRO_LLM_URL is not set; set it to an OpenAI-compatible endpoint such as http://localhost:11434/v1"
            )
        if urlsplit(url).scheme not in ("http", "https"):
            raise MASTProError(f"MASTPRO_LLM_URL is {url}; make it an address that starts with http:// or https://")
        if not model:
            raise MASTProError("MASTPRO_LLM_MODEL is not set; set it to a model that your endpoint serves")
        return cls(url=url, model=model, key=os.environ.get("MASTPRO_LLM_KEY", ""))

    @property
    def chat_url(self) -> str:
        base = self.url.rstrip("/")
        return base if base.endswith("/chat/completions") else f"{base}/chat/completions"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send the key along to wherever a redirect points."""

    def redirect_request(self, *args, **kwargs) -> None:
        return None


def describe(name: str, endpoint: Endpoint, timeout_s: float = 60.0) -> dict[str, str]:
    """The five attributes of the tumour `name`, asked of a chat model and checked. Raises MASTProError."""
    if not name.strip():
        raise MASTProError('the tumor\'s name is empty; give one, as in --describe "adrenal tumor"')
    messages = [{"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": name}]
    body = json.dumps({"model": endpoint.model, "messages": messages, "temperature": 0}).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    answer = _post(urllib.request.Request(endpoint.chat_url, body, headers), timeout_s)
    return parse_attributes(_content(answer, endpoint.chat_url))


def _post(request: urllib.request.Request, timeout_s: float) -> bytes:
    where = request.full_url
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout_s) as response:
            return response.read(MAX_ANSWER_BYTES)
    except urllib.error.HTTPError as error:
        raise MASTProError(f"{where} answered HTTP {error.code} ({error.reason}); check URL, key and model") from error
    except TimeoutError as error:
        raise _timed_out(where, timeout_s) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _timed_out(where, timeout_s) from error
        raise MASTProError(f"{where} cannot be reached ({error.reason}); check MASTPRO_LLM_URL") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise MASTProError(f"{where} gave no usable HTTP answer ({error!r}); check MASTPRO_LLM_URL") from error


def _timed_out(where: str, timeout_s: float) -> MASTProError:
    return MASTProError(f"{where} did not answer within {timeout_s:g} s; raise --timeout or ask a faster model")


def _content(answer: bytes, where: str) -> str:
    try:
        content = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise MASTProError(f"{where} did not answer as a chat endpoint does; check MASTPRO_LLM_URL") from error
    if not isinstance(content, str):
        raise MASTProError(f"{where} answered without text; try another model")
    return content


def parse_attributes(text: str) -> dict[str, str]:
    """The five attributes from a model's answer, code fences tolerated. Raises MASTProError for anything else."""
    fenced = re.search(r"```(?:json)?\s*(.*?)```", text, re.DOTALL)
    try:
        answer = json.loads(fenced.group(1) if fenced else text)
    except ValueError as error:
        raise MASTProError(f"the model's answer is not JSON ({text[:80]!r}); run again or try another model") from error
    if not isinstance(answer, dict):
        raise MASTProError("the model's answer is no JSON object; run again or try another model")
    missing = [key for key in TEXT_KEYS if key not in answer]
    if missing:
        raise MASTProError(f"the model's answer lacks {', '.join(missing)}; run again or try another model")
    return {key: _attribute(key, answer[key]) for key in TEXT_KEYS}


def _attribute(key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise MASTProError(f'"{key}" in the model\'s answer is {value!r}, not a text; run again or try another model')
    text = " ".join(value.split()).rstrip(".")
    if len(text) > MAX_ATTRIBUTE_LENGTH:
        raise MASTProError(
            f'"{key}" in the model\'s answer has {len(text)} characters, more than {MAX_ATTRIBUTE_LENGTH}; '
            "run again or try another model"
        )
    return text
