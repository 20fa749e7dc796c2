"""Makes the .ptx files beside the .cu files here and in ../fixtures with NVRTC 13.0, or checks that they are the same.

usage: make.py [--check] INCLUDE_DIRECTORY

INCLUDE_DIRECTORY is that of the toolkit's headers. libnvrtc.so.13 must be where the loader finds it.
"""
import ctypes
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
FOLDERS = [HERE, HERE.parent / "fixtures"]
HOPPER = {"hopper", "wgmma_product", "cluster_exchange"}


def compiled(nvrtc, source, include):
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None)
    arch = "compute_90a" if source.stem in HOPPER else "compute_80"
    options = [f"--gpu-architecture={arch}", "-lineinfo", "-default-device", f"-I{include}", f"-I{include}/cccl"]
    if source.parent == HERE:
        options += ["-device-int128"]
    if source.stem == "debug":
        options += ["-G"]
    array = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    failed = nvrtc.nvrtcCompileProgram(program, len(options), array)
    size = ctypes.c_size_t()
    if failed:
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        sys.exit(f"{source.name}:\n{log.value.decode()}")
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, text)
    ptx = text.value.decode()
    if source.parent == HERE:
        return compact(ptx)
    return named(ptx.split("\t.section")[0].rstrip() + "\n")


def named(ptx):
    """Files by name: where the compiler ran says nothing."""
    return re.sub(r'(\.file\s+\d+ )"[^"]*/', r'\1"', ptx)


def compact(ptx):
    """Without comments and empty lines; of the debug sections only the names of inlined functions are used."""
    names = re.search(r"\t\.section\s+\.debug_str\s*\{.*?\n\t?\}", ptx, re.S)
    ptx = ptx.split("\t.section")[0].rstrip() + "\n"
    if names:
        ptx += names.group(0) + "\n"
    ptx = re.sub(r"[ \t]*//[^\n]*", "", named(ptx))
    return re.sub(r"\n\s*\n+", "\n", ptx)


def main():
    include = sys.argv[-1]
    if "--one" in sys.argv:
        source = pathlib.Path(sys.argv[2])
        sys.stdout.write(compiled(ctypes.CDLL("libnvrtc.so.13"), source, include))
        return
    for folder in FOLDERS:
        for source in sorted(folder.glob("*.cu")):
            # A process for each: what NVRTC has compiled before changes the order of some instructions.
            command = [sys.executable, __file__, "--one", str(source.resolve()), include]
            ptx, path = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout, source.with_suffix(".ptx")
            if "--check" not in sys.argv:
                path.write_text(ptx)
            elif path.read_text() != ptx:
                sys.exit(f"{path.name} is not what {source.name} makes")


if __name__ == "__main__":
    main()
