from collections.abc import Iterator
from typing import Any

from numpy import float32, float64, int32, int64, str_, uint8, uint32
from numpy.typing import NDArray
from typing_extensions import Buffer

def is_plain(x: object, type_num: int, ndim: int) -> bool: ...
def isa() -> str: ...
def known_isas() -> list[str]: ...
def available_isas() -> list[str]: ...
def wrong_kernels() -> dict[str, str]: ...
def set_isa(name: str) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...

class SearchStats:
    def __init__(self, n_docs: int, prefix: int, counts: NDArray[int64]) -> None: ...
    @property
    def n_docs(self) -> int: ...
    @property
    def prefix(self) -> int: ...
    @property
    def rescored(self) -> NDArray[int64]: ...
    @property
    def by_codes(self) -> NDArray[int64]: ...
    @property
    def by_float32(self) -> NDArray[int64]: ...
    @property
    def path(self) -> NDArray[str_]: ...
    def __getitem__(self, key: Any, /) -> SearchStats: ...

class Hits:
    def __init__(
        self, scores: NDArray[Any], ids: NDArray[Any], logprobs: NDArray[Any], stats: SearchStats | None = None
    ) -> None: ...
    @property
    def scores(self) -> NDArray[Any]: ...
    @property
    def ids(self) -> NDArray[Any]: ...
    @property
    def logprobs(self) -> NDArray[Any]: ...
    @property
    def stats(self) -> SearchStats | None: ...
    def __iter__(self) -> Iterator[NDArray[Any]]: ...

class Codes:
    def __init__(
        self,
        n_docs: int,
        dim: int,
        center: NDArray[float32] | None,
        weight: NDArray[float32] | None,
        rotation: NDArray[float32] | None,
        rotation_error: float,
        prefix: int,
        always: bool,
    ) -> None: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def n_docs(self) -> int: ...
    @property
    def n_encoded(self) -> int: ...
    @property
    def half_squares(self) -> bool: ...
    @property
    def prefix(self) -> int: ...
    @property
    def planes(self) -> tuple[NDArray[uint8], NDArray[uint8], NDArray[float32]]: ...
    def encode(
        self,
        vectors: NDArray[Any],
        first: int,
        bfloat16: bool,
        n_threads: int,
        half_squares: NDArray[float64] | None = None,
    ) -> None: ...
    @staticmethod
    def over(
        high: NDArray[uint8],
        low: NDArray[uint8],
        bounds: NDArray[float32],
        center: NDArray[float32] | None,
        weight: NDArray[float32] | None,
        rotation: NDArray[float32] | None,
        rotation_error: float,
        prefix: int,
        always: bool,
        half_squares: bool = False,
    ) -> Codes: ...

class CorruptDocument(ValueError):
    segment: int
    row: int
    def __init__(self, segment: int, row: int) -> None: ...

class Docs:
    def __init__(
        self,
        vectors: NDArray[Any],
        norms: NDArray[float32] | None = None,
        ids: NDArray[int64] | None = None,
        codes: Codes | None = None,
        *,
        bfloat16: bool = False,
        first_id: int = 0,
        allowed: NDArray[uint32] | None = None,
        groups: NDArray[int32] | None = None,
        half_squares: NDArray[float64] | None = None,
        row_sums: NDArray[uint32] | None = None,
        mapped: bool = False,
    ) -> None: ...
    @property
    def vectors(self) -> NDArray[Any]: ...
    @property
    def codes(self) -> Codes | None: ...
    def changed(self, *, allowed: NDArray[uint32] | None = ..., groups: NDArray[int32] | None = ...) -> Docs: ...
    def __len__(self) -> int: ...

def search(
    queries: NDArray[Any],
    docs: tuple[Docs, ...],
    k: int,
    temperature: float,
    n_threads: int,
    out_type: int,
    excluded_groups: NDArray[int32] | None = None,
    max_per_group: int = 0,
    cosine: bool = False,
) -> Hits: ...
def narrowed(x: NDArray[float64]) -> NDArray[float32]: ...
def widened(x: NDArray[float32]) -> NDArray[float64]: ...
def measure_rows(
    rows: NDArray[Any], bfloat16: bool, with_half_squares: bool, n_threads: int, copy: NDArray[Any] | None = None
) -> tuple[NDArray[float32] | None, NDArray[float64] | None, int | None]: ...

class Checksum:
    def __init__(self) -> None: ...
    def update(self, data: Buffer) -> None: ...
    @property
    def value(self) -> int: ...

def checksum(data: Buffer) -> int: ...
def row_sums(rows: NDArray[Any], n_threads: int = 0) -> NDArray[uint32]: ...
def is_plain_floats(x: object) -> bool: ...
def logsumexp(x: NDArray[Any], n_threads: int) -> Any: ...
def log_softmax(x: NDArray[Any], n_threads: int) -> NDArray[Any]: ...
def marginalize(
    docs: object, tokens: object, by_token: bool, with_posterior: bool, n_threads: int
) -> tuple[Any, NDArray[Any] | None] | None: ...
def target_logprobs(
    logits: NDArray[Any], targets: NDArray[int64], bfloat16: bool, with_lse: bool, with_sums: bool, n_threads: int
) -> tuple[NDArray[float64], NDArray[float64] | None, NDArray[float64] | None]: ...
def target_grad(
    out: NDArray[Any],
    logits: NDArray[Any],
    targets: NDArray[int64],
    lse: NDArray[float64],
    scale: NDArray[float64],
    shift: NDArray[float64] | None,
    bfloat16: bool,
    n_threads: int,
) -> None: ...
def rag_nll(
    scores: NDArray[Any],
    doc_scores: NDArray[float64],
    targets: NDArray[int64],
    weights: NDArray[float64] | None,
    lse: NDArray[float64] | None,
    logits_grad: NDArray[Any] | None,
    bfloat16: bool,
    by_token: bool,
    as_hf: bool,
    skip_first: bool,
    lse_known: bool,
    with_posterior: bool,
    with_docs_grad: bool,
    with_tokens_grad: bool,
    temperature: float,
    label_smoothing: float,
    n_threads: int,
) -> tuple[NDArray[float64], NDArray[float64] | None, NDArray[float64] | None, NDArray[float64] | None]: ...

# ---- chosen documents, shards

def gather_scores(
    queries: NDArray[Any],
    vectors: NDArray[Any],
    rows: NDArray[int64],
    n_threads: int,
    out_type: int,
    bfloat16: bool,
    half_squares: NDArray[float64] | None = None,
) -> NDArray[Any]: ...
def gather_scores_grad(
    grad: NDArray[float64],
    vectors: NDArray[Any],
    rows: NDArray[int64],
    n_threads: int,
    out_type: int,
    bfloat16: bool,
) -> NDArray[Any]: ...
def merge_topk(scores: NDArray[float64], ids: NDArray[int64], k: int) -> tuple[NDArray[float64], NDArray[int64]]: ...

# ---- decoding, divergence, keys

def marginalize_step(
    logits: NDArray[Any], doc_logprobs: NDArray[float64], bfloat16: bool, n_best: int, n_threads: int
) -> Any: ...
def kl(
    p: NDArray[float64],
    q: NDArray[float64],
    p_temperature: float,
    q_temperature: float,
    with_p_grad: bool,
    with_q_grad: bool,
    n_threads: int,
) -> tuple[NDArray[float64], NDArray[float64] | None, NDArray[float64] | None]: ...
def segment_logsumexp(x: NDArray[float64], keys: NDArray[int64], n_keys: int, n_threads: int) -> NDArray[float64]: ...

# ---- what the machine can do

def peak_operations(arithmetic: str, rounds: int) -> int: ...
def peak_read(x: NDArray[Any]) -> int: ...
