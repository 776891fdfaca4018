"""The library of nnabla's CUDA extension, and a copy of it that works on compute capability 9.0 (H100, H200).

What is wrong with the library of the wheel stands in `common.machine.fatbin`. The copy lies in the cache, made by
`python -m common.console.correct_cuda`; the wheel stays as it is.
"""
import ctypes
import hashlib
import importlib.util
import mmap
import shutil
from pathlib import Path

from common.machine.cache import cache_dir, make_cache_folder, remembered
from common.machine.errors import UserError
from common.machine.fatbin import RIGHT_MASK, wrong_masks
from common.machine.files import replacing

COMMAND = "python -m common.console.correct_cuda"
# SHA-256 of a library that is known to have wrong masks, and that of its corrected copy.
CORRECTED = {
    # nnabla-ext-cuda120 1.39.0 for Linux: 3746 masks
    "3832520805cf51b47ccab17783ba3a7b803006b21223c2c9590942af4d082fa7":
        "8f797dd9d5f4ea9dbf1e2383deedcad40090879ac1ac91f549d208a259174455",
}


def installed_library() -> Path | None:
    """Return the path of the library in the installed wheel; None if there is none."""
    try:
        spec = importlib.util.find_spec("nnabla_ext.cuda")
    except ModuleNotFoundError:
        return None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return next((path for folder in folders for path in sorted(Path(folder).iterdir())
                 if "nnabla_cuda" in path.name and path.suffix in (".so", ".dll")), None)


def corrected_library() -> Path | None:
    """Return the path of the corrected copy of the installed library; None if there is none, or a damaged one."""
    library = installed_library()
    if library is None:
        return None
    try:
        copy = _place_of_copy(library)
    except UserError:    # no home, no cache
        return None
    return copy if copy.is_file() and digest_of(copy) == CORRECTED.get(digest_of(library)) else None


def can_be_corrected() -> bool:
    """Tell whether the installed library is one whose wrong masks are known, and has no corrected copy yet."""
    library = installed_library()
    return library is not None and digest_of(library) in CORRECTED and corrected_library() is None


def write_corrected_library() -> Path:
    """Make the corrected copy of the installed library in the cache, where it is not there yet.

    Raises
    ------
    UserError
        The extension is not installed, it is not one that is known, or the cache cannot be written to.
    """
    library = installed_library()
    if library is None:
        raise UserError("there is no library of nnabla's CUDA extension to correct; "
                        "run 'pip install -r requirements-cuda.txt' first")
    digest = digest_of(library)
    if digest not in CORRECTED:
        raise UserError(f"{library}: not a library that this command knows (SHA-256 {digest[:16]}...), nothing was "
                        "done; it knows that of nnabla-ext-cuda120 1.39.0")
    if (copy := corrected_library()) is None:
        copy = _place_of_copy(library)
        make_cache_folder(copy.parent)
        with replacing(copy) as temporary:
            shutil.copyfile(library, temporary)
            widen_masks(temporary)
            if (found := _hexdigest(temporary)) != CORRECTED[digest]:
                raise UserError(f"{copy}: came out wrong (SHA-256 {found[:16]}...), nothing was kept; run it again")
    return copy


def widen_masks(library: Path) -> int:
    """Let the shuffles in the machine code for compute capability 9.0 take all lanes, in this file; count them."""
    with library.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as content:
        with memoryview(content) as view:
            places = wrong_masks(view)
        for at in places:
            content[at:at + 4] = RIGHT_MASK.to_bytes(4, "little")
    return len(places)


def load_corrected_library() -> None:
    """Load the corrected copy, if there is one, before the extension is imported.

    The modules of the extension ask the loader for a library by its name (SONAME), and it gives them the one of this
    name that the process has. nnabla itself, to which the copy links in the same way, has to be imported before.

    Raises
    ------
    OSError
        It cannot be loaded, as without NVIDIA's driver.
    """
    if (copy := corrected_library()) is not None:
        ctypes.CDLL(str(copy), mode=ctypes.RTLD_GLOBAL)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits, remembered for its size and time of change."""
    status = path.stat()
    key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    return remembered("cuda/digests.json", key, lambda: _hexdigest(path))


def _place_of_copy(library):
    return cache_dir() / "cuda" / digest_of(library)[:16] / library.name


def _hexdigest(path):
    running = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            running.update(block)
    return running.hexdigest()
