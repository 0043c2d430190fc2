"""Files on this machine and in object stores, such as `s3://`, `gs://` and `hdfs://`, through pyarrow."""

import contextlib
import dataclasses
import functools
import os
import shutil
from pathlib import Path
from typing import BinaryIO

from pyarrow import fs

from data_prep.errors import InputError
from data_prep.files import open_whole

_APPEAR_WHOLE = ("s3", "gcs", "abfs")  # stores where an object is not there until all of it is


@dataclasses.dataclass(frozen=True)
class Location:
    """A file or folder.

    Attributes:
        files: The file system.
        path: Its path there.
        name: Its path or URI as the user gave it, without the settings and credentials that a URI may hold.
    """

    files: fs.FileSystem
    path: str
    name: str

    def __truediv__(self, place: str) -> "Location":
        """Goes to a place below the folder."""
        return dataclasses.replace(self, path=_join(self.path, place), name=_join(self.name, place)) if place else self

    @property
    def local(self) -> Path | None:
        """The path on this machine; None for what is elsewhere."""
        return Path(self.path) if self.files.type_name == "local" else None


def _join(folder, place):
    return f"{folder}{place}" if folder.endswith("/") else f"{folder}/{place}"


def locate(uri: str) -> Location:
    """Finds a file or folder.

    Args:
        uri: A path, or a URI whose path is taken as it is, without percent-encoding. Behind `?` follow settings of
            pyarrow's file system, such as `endpoint_override`.

    Raises:
        InputError: If there is no such file system, or it cannot be set up.
    """
    address, _, settings = uri.partition("?") if "://" in uri else (uri, "", "")
    return _locate(address, settings)


def locate_listed(entry: str) -> Location:
    """Finds a file of a list, whose name may hold any character.

    Raises:
        InputError: As in `locate`.
    """
    return _locate(entry, "")


def _locate(address, settings):
    scheme, is_uri, rest = address.partition("://")
    if not is_uri:
        return Location(fs.LocalFileSystem(), os.path.realpath(address), address.rstrip("/") or "/")
    host, _, path = rest.rstrip("/").partition("/")
    files, root = _connect(f"{scheme}://{host}/{'?' if settings else ''}{settings}")
    return Location(files, _join(root, path) if path else root, f"{scheme}://{host.rpartition('@')[2]}/{path}")


@functools.lru_cache
def _connect(uri) -> tuple[fs.FileSystem, str]:
    try:
        return fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        scheme, _, rest = uri.partition("://")
        name = f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"  # without credentials
        raise InputError(f"{name} cannot be reached: {_tell(error).replace(uri, name)}") from error


def kind_of(location: Location) -> fs.FileType:
    """Tells whether a file, a folder, or nothing is there.

    Raises:
        InputError: If it cannot be found out.
    """
    try:
        return location.files.get_file_info(location.path).type
    except OSError as error:
        raise InputError(f"{location.name} cannot be reached: {_tell(error)}") from error


@dataclasses.dataclass
class Listing:
    """A folder's own contents.

    Attributes:
        files: Names of files, sorted; of links to files too.
        folders: Names of folders, sorted.
        links: Names of links to folders, which are not followed.
        broken: Names of links to nothing.
        errors: What is wrong with others, one line each.
    """

    files: list[str] = dataclasses.field(default_factory=list)
    folders: list[str] = dataclasses.field(default_factory=list)
    links: list[str] = dataclasses.field(default_factory=list)
    broken: list[str] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)


def list_folder(folder: Location) -> Listing:
    """Lists a folder's own contents.

    Args:
        folder: The folder.

    Returns:
        Its files and folders in order, and apart from them what is not followed or wrong.

    Raises:
        InputError: If it cannot be listed.
    """
    listing = Listing()
    try:
        if folder.local:
            _scan(folder, listing)
        else:
            _select(folder, listing)
    except OSError as error:
        raise InputError(f"cannot read the folder, check its permissions: {folder.name} ({_tell(error)})") from error
    listing.files.sort()
    listing.folders.sort()
    return listing


def _scan(folder, listing):
    """Lists a folder of this machine: pyarrow would ask for each file's size, and pass over links to nothing."""
    with os.scandir(folder.local) as entries:
        for found in entries:
            if found.name.encode(errors="ignore").decode() != found.name:
                _complain_of_name(folder, listing)
            elif found.is_symlink():
                _append_link(found, listing)
            elif found.is_dir(follow_symlinks=False):
                listing.folders.append(found.name)
            elif found.is_file(follow_symlinks=False):
                listing.files.append(found.name)


def _append_link(link, listing):
    if os.path.isdir(link):
        listing.links.append(link.name)
    elif os.path.isfile(link):
        listing.files.append(link.name)
    elif not os.path.exists(link):
        listing.broken.append(link.name)


def _select(folder, listing):
    names = {fs.FileType.File: listing.files, fs.FileType.Directory: listing.folders}
    for found in folder.files.get_file_info(fs.FileSelector(folder.path)):
        try:
            if found.type in names and found.base_name:
                names[found.type].append(found.base_name)
        except UnicodeDecodeError:
            _complain_of_name(folder, listing)


def _complain_of_name(folder, listing):
    listing.errors.append(f"{folder.name} holds a file whose name is no UTF-8: rename it")


def fetch(source: Location, copy: Path) -> None:
    """Copies a file from elsewhere to this machine.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        with source.files.open_input_stream(source.path) as stream, copy.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
    except OSError as error:
        raise InputError(f"{source.name} cannot be read: {_tell(error)}") from error


def deliver(content: BinaryIO, target: Location) -> None:
    """Writes a file whole or not at all; what is there is replaced.

    Args:
        content: What to write, from its start.
        target: Where; missing folders are made.

    Raises:
        InputError: If it cannot be written.
    """
    files, path = target.files, target.path
    folder = path.rpartition("/")[0]
    try:
        if target.local:
            target.local.parent.mkdir(parents=True, exist_ok=True)
            with open_whole(target.local) as file:
                shutil.copyfileobj(content, file)
        elif files.type_name in _APPEAR_WHOLE:
            whole = content.read()  # first, as whatever was written when the stream is closed appears
            with files.open_output_stream(path) as stream:
                stream.write(whole)
        else:
            files.create_dir(folder, recursive=True)
            partial = f"{folder}/.{os.urandom(8).hex()}.partial"
            try:
                with files.open_output_stream(partial) as stream:
                    shutil.copyfileobj(content, stream, 1 << 20)
                with contextlib.suppress(FileNotFoundError):  # as HDFS renames over nothing
                    files.delete_file(path)
                files.move(partial, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    files.delete_file(partial)
                raise
    except OSError as error:
        raise InputError(f"cannot write {target.name}: {_tell(error)}") from error


def _tell(error):
    return getattr(error, "strerror", None) or str(error).partition("\n")[0]
