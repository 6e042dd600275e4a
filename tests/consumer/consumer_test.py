#!/usr/bin/env python3
"""A program of somebody else finds coir, builds, runs, and writes what it should.

    consumer_test.py pkg-config BUILD COMPILER...     installed from BUILD, found by pkg-config
    consumer_test.py cmake BUILD COMPILER...          the same, found by CMake
    consumer_test.py subproject BUILD COMPILER...     a static library, built as a subproject of another Meson
                                                      project; then installed from there, and found by both

BUILD is a build directory where everything is built. Exit code 77: the tool for this way is missing.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "consumer"
HELLO = ROOT / "examples" / "hello.cpp"
JUMPING_CLOCK = HERE / "jumping_clock.cpp"
FILES_IN_POOL = HERE / "files_in_pool.cpp"
SKIPPED = 77


class Failure(Exception):
    pass


def run(*command, **environment):
    """Runs a command; what it says is only interesting when it fails."""
    words = [str(word) for word in command]
    result = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, **{k: str(v) for k, v in environment.items()}})
    if result.returncode != 0:
        raise Failure(f"{' '.join(words)}\nended with code {result.returncode}:\n{result.stdout}")
    return result.stdout


def need(tool, package):
    if shutil.which(tool) is None:
        print(f"skipped: {tool} is not installed (Debian package {package})")
        sys.exit(SKIPPED)


def check_outputs(directory):
    for name, source in (("hello", HELLO), ("jumping_clock", JUMPING_CLOCK), ("files_in_pool", FILES_IN_POOL)):
        run(ROOT / "tools" / "run_example", directory / name, source)
        print(f"{directory / name} wrote what {source.relative_to(ROOT)} says")


class Installed:
    """A coir that was just installed somewhere below a directory."""

    def __init__(self, build, below, *options):
        run("meson", "install", "-C", build, "--no-rebuild", *options)
        self.pkgconfig = self.only_one(below, "coir.pc").parent
        self.library_dir = self.pkgconfig.parent
        self.prefix = self.only_one(below, "coir.hpp").parents[2]

    @staticmethod
    def only_one(below, name):
        found = list(below.rglob(name))
        if len(found) != 1:
            raise Failure(f"{name} was installed {len(found)} times below {below}, not once")
        return found[0]

    def check_headers(self):
        """All public headers are there, and nothing else is."""
        include = ROOT / "include"
        expected = {str(header.relative_to(include)) for header in include.rglob("*.hpp")}
        expected.add("coir/base/configured.hpp")
        found_below = self.prefix / "include"
        found = {str(file.relative_to(found_below)) for file in found_below.rglob("*")
                 if file.is_file()}
        if found != expected:
            raise Failure(f"installed headers: missing {sorted(expected - found)}, "
                          f"not expected {sorted(found - expected)}")
        print(f"{len(found)} headers were installed below {found_below}")

    def check_shared_library(self):
        """Programs ask for the library by the number of its binary interface, which is a link to the file."""
        for name in ("libcoir", "libcoir-testing"):
            link = self.library_dir / f"{name}.so"
            file = link.resolve()
            said = run("readelf", "--dynamic", "--wide", file)
            soname = re.search(r"\(SONAME\).*\[(.+)\]", said)
            if not soname or not re.fullmatch(rf"{name}\.so\.\d+", soname[1]):
                raise Failure(f"{file}: its SONAME is {soname and soname[1]}, not {name}.so.NUMBER")
            if (self.library_dir / soname[1]).resolve() != file or file.name == soname[1]:
                raise Failure(f"{self.library_dir / soname[1]} is not a link to {file.name}")
            print(f"{link.name} is {soname[1]} is {file.name}")


def build_by_pkg_config(installed, directory, compiler, *options):
    """Returns the directory of the programs, which are built with the warnings of a strict user."""
    strict = ["-std=c++20", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
    for program, source, package in (("hello", HELLO, "coir"),
                                     ("files_in_pool", FILES_IN_POOL, "coir"),
                                     ("jumping_clock", JUMPING_CLOCK, "coir-testing")):
        flags = run("pkg-config", f"--define-variable=prefix={installed.prefix}", "--cflags", "--libs",
                    *options, package, PKG_CONFIG_PATH=installed.pkgconfig).split()
        run(*compiler, *strict, source, "-o", directory / program, *flags,
            f"-Wl,-rpath,{installed.library_dir}")
    return directory


def build_by_cmake(installed, directory, compiler, *options):
    run("cmake", "-S", HERE / "by_cmake", "-B", directory, f"-DCMAKE_PREFIX_PATH={installed.prefix}",
        f"-DCMAKE_CXX_COMPILER={compiler[-1]}", f"-DHELLO_SOURCE={HELLO}", *options)
    run("cmake", "--build", directory)
    return directory


def moved(build, scratch):
    """Installed elsewhere than the build was configured for."""
    return Installed(build, scratch / "moved", "--destdir", scratch / "moved")


def by_pkg_config(build, scratch, compiler):
    need("pkg-config", "pkg-config")
    installed = moved(build, scratch)
    installed.check_headers()
    installed.check_shared_library()
    programs = scratch / "programs"
    programs.mkdir()
    check_outputs(build_by_pkg_config(installed, programs, compiler))


def by_cmake(build, scratch, compiler):
    need("cmake", "cmake")
    installed = moved(build, scratch)
    check_outputs(build_by_cmake(installed, scratch / "programs", compiler))


def subproject(_, scratch, compiler):
    """Static, and installed from there: compiling the library takes long enough to do it once for both."""
    need("pkg-config", "pkg-config")
    project = scratch / "project"
    build = scratch / "build"
    prefix = scratch / "prefix"
    shutil.copytree(HERE / "by_meson", project)
    for source in (HELLO, JUMPING_CLOCK, FILES_IN_POOL):
        shutil.copy(source, project)
    shutil.copytree(ROOT, project / "subprojects" / "coir",
                    ignore=shutil.ignore_patterns("build*", ".git"))
    # Unity, in two pieces: a seventh of the time.
    run("meson", "setup", build, project, "--buildtype=plain", f"--prefix={prefix}",
        "-Ddefault_library=static", "-Dunity=subprojects", "-Dunity_size=50", CXX=" ".join(compiler))
    run("meson", "compile", "-C", build)
    check_outputs(build)

    installed = Installed(build, prefix)
    programs = scratch / "programs"
    programs.mkdir()
    check_outputs(build_by_pkg_config(installed, programs, compiler))
    check_outputs(build_by_pkg_config(installed, programs, compiler, "--static"))
    need("cmake", "cmake")
    check_outputs(build_by_cmake(installed, scratch / "by_cmake", compiler))


WAYS = {"pkg-config": by_pkg_config, "cmake": by_cmake, "subproject": subproject}


def main():
    if len(sys.argv) < 4 or sys.argv[1] not in WAYS:
        sys.exit(__doc__)
    way, build, *compiler = sys.argv[1:]
    # What the outer build and its user set is not the consumer's.
    for name in ("DESTDIR", "CXXFLAGS", "LDFLAGS", "PKG_CONFIG_PATH", "MAKEFLAGS"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="coir-consumer-") as scratch:
        WAYS[way](pathlib.Path(build).resolve(), pathlib.Path(scratch), compiler)


if __name__ == "__main__":
    try:
        main()
    except (Failure, OSError) as error:
        sys.exit(f"consumer_test: {error}")
