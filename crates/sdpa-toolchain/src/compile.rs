//! NVRTC: from a kernel source to PTX, the same bytes wherever it runs.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use libloading::Library;
use sdpa_core::Specialisation;

use crate::fingerprint::options;
use crate::tools::homes;
use crate::{Checkout, Fingerprint, Result, Sources, ToolchainError};

/// The PTX version that the pinned compiler writes; a newer one would lock out the drivers that we promise to run on.
const PTX_VERSION: &str = ".version 9.0";

/// The library by the name that its wheel and every toolkit of this major version give it.
const LIBRARY: &str = if cfg!(windows) { "nvrtc64_130_0.dll" } else { "libnvrtc.so.13" };

/// `nvrtcProgram`.
type Handle = *mut std::ffi::c_void;

/// NVRTC, loaded from the wheels or the toolkit that this machine has. Several threads may compile at once.
pub struct Nvrtc {
    functions: Functions,
    version: (i32, i32),
    /// The folder that holds `cuda_fp16.h`.
    include: PathBuf,
    /// The functions point into it, and it uses the built-ins.
    _libraries: Vec<Library>,
}

/// What is called of it, by the C declarations in `nvrtc.h`.
struct Functions {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    create: unsafe extern "C" fn(
        *mut Handle,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    destroy: unsafe extern "C" fn(*mut Handle) -> c_int,
    compile: unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int,
    ptx_size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
    ptx: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    log_size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
}

impl Functions {
    fn of(library: &Library) -> std::result::Result<Self, libloading::Error> {
        // SAFETY: each name is looked up with the type that `nvrtc.h` declares it with, unchanged since CUDA 7; the library
        // outlives the pointers, both being fields of `Nvrtc`.
        unsafe {
            Ok(Self {
                version: *library.get(b"nvrtcVersion")?,
                error_string: *library.get(b"nvrtcGetErrorString")?,
                create: *library.get(b"nvrtcCreateProgram")?,
                destroy: *library.get(b"nvrtcDestroyProgram")?,
                compile: *library.get(b"nvrtcCompileProgram")?,
                ptx_size: *library.get(b"nvrtcGetPTXSize")?,
                ptx: *library.get(b"nvrtcGetPTX")?,
                log_size: *library.get(b"nvrtcGetProgramLogSize")?,
                log: *library.get(b"nvrtcGetProgramLog")?,
            })
        }
    }

    /// NVRTC's word for a result, unless it is success.
    fn check(&self, result: c_int) -> std::result::Result<(), String> {
        if result == 0 {
            return Ok(());
        }
        // SAFETY: any number may be asked for; the answer is a string constant of the library.
        let words = unsafe { CStr::from_ptr((self.error_string)(result)) };
        Err(words.to_string_lossy().into_owned())
    }
}

impl Nvrtc {
    /// Looks for NVRTC and the CUDA headers: in the wheels of `kernels/requirements.txt` under the checkout's `target/cuda`,
    /// in `CUDA_HOME` and `CUDA_PATH`, beside `LD_LIBRARY_PATH`, in `/usr/local/cuda`, and where the system's loader looks.
    ///
    /// # Errors
    /// [`ToolchainError::NoCompiler`], [`ToolchainError::NoHeaders`] or [`ToolchainError::NotNvrtc`].
    pub fn find(checkout: &Checkout) -> Result<Self> {
        let homes = homes(Some(checkout));
        let folders = homes.iter().flat_map(|home| ["lib", "lib64", "bin"].map(|folder| home.join(folder)));
        let path = folders.map(|folder| folder.join(LIBRARY)).find(|path| path.is_file());
        // Without a path the loader searches in its own way.
        let path = path.unwrap_or_else(|| LIBRARY.into());
        let mut libraries = Vec::new();
        // NVRTC loads its built-ins by their bare name, which finds them only if they are loaded already.
        if let Some(builtins) = builtins_beside(&path) {
            // SAFETY: the built-ins' initialisers have no preconditions.
            libraries.extend(unsafe { Library::new(builtins) });
        }
        // SAFETY: NVRTC's initialisers have no preconditions.
        let Ok(library) = (unsafe { Library::new(&path) }) else {
            return Err(ToolchainError::NoCompiler { library: LIBRARY, root: checkout.root().to_owned() });
        };
        let not_nvrtc = |reason: String| ToolchainError::NotNvrtc { path: path.clone(), reason };
        let functions = Functions::of(&library).map_err(|error| not_nvrtc(error.to_string()))?;
        libraries.insert(0, library);
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are valid for one write.
        let asked = unsafe { (functions.version)(&raw mut major, &raw mut minor) };
        functions.check(asked).map_err(not_nvrtc)?;

        let includes: Vec<PathBuf> = homes.iter().map(|home| home.join("include")).collect();
        let Some(include) = includes.iter().find(|include| include.join("cuda_fp16.h").is_file()) else {
            let searched = includes.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            return Err(ToolchainError::NoHeaders { searched, root: checkout.root().to_owned() });
        };
        Ok(Self { functions, version: (major, minor), include: include.clone(), _libraries: libraries })
    }

    /// The toolkit's folder: the one that holds its `include`.
    pub fn home(&self) -> &Path {
        self.include.parent().unwrap_or(&self.include)
    }

    /// Its version, (major, minor).
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Compiles a specialisation to PTX with its fingerprint's header.
    ///
    /// The text depends on the sources and the compiler's version only: no path of this machine is left in it.
    ///
    /// # Errors
    /// [`ToolchainError::Compile`] with the compiler's log, or [`ToolchainError::NoSource`].
    pub fn compile(&self, kernel: &Specialisation, sources: &Sources) -> Result<String> {
        let fingerprint = Fingerprint::of_sources(kernel, sources)?;
        let mut options = options(kernel);
        let include = self.include.display().to_string();
        options.push(format!("--include-path={include}"));
        options.push(format!("--include-path={include}/cccl"));

        let failed = |log: String| ToolchainError::Compile { kernel: kernel.to_string(), log };
        let ptx = Program::new(self, kernel, sources).and_then(|program| program.compile(&options)).map_err(failed)?;
        if !ptx.lines().any(|line| line == PTX_VERSION) {
            let found = ptx.lines().find(|line| line.starts_with(".version")).unwrap_or("no version");
            let (major, minor) = self.version;
            return Err(failed(format!(
                "NVRTC {major}.{minor} wrote {found}; the pinned one writes {PTX_VERSION}: install kernels/requirements.txt"
            )));
        }
        Ok(format!("{}{}", fingerprint.header(kernel), strip_machine_paths(&ptx, &self.include, sources)))
    }
}

impl std::fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NVRTC {}.{}, headers in {}", self.version.0, self.version.1, self.include.display())
    }
}

/// `libnvrtc-builtins.so.13.0` beside NVRTC.
fn builtins_beside(nvrtc: &Path) -> Option<PathBuf> {
    let folder = nvrtc.parent().filter(|folder| !folder.as_os_str().is_empty())?;
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("libnvrtc-builtins.so") || name.starts_with("nvrtc-builtins64_")
        })
        .collect();
    found.sort();
    found.into_iter().next()
}

/// An NVRTC program, with every kernel source as an in-memory header.
struct Program<'n> {
    nvrtc: &'n Functions,
    handle: Handle,
    // NVRTC may keep pointers into these until the program is destroyed.
    _texts: Vec<CString>,
}

impl<'n> Program<'n> {
    fn new(nvrtc: &'n Nvrtc, kernel: &Specialisation, sources: &Sources) -> std::result::Result<Self, String> {
        let c_string = |text: &str| CString::new(text).map_err(|_| "a source file holds a NUL byte".to_owned());
        let source = sources.get(kernel.source).unwrap_or_default();
        let mut texts = vec![c_string(source)?, c_string(kernel.source)?];
        for (path, text) in sources.iter() {
            texts.push(c_string(text)?);
            texts.push(c_string(path)?);
        }
        let pointers: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
        let header_texts: Vec<_> = pointers[2..].iter().step_by(2).copied().collect();
        let header_names: Vec<_> = pointers[3..].iter().step_by(2).copied().collect();

        let nvrtc = &nvrtc.functions;
        let mut handle = null_mut();
        // SAFETY: every pointer is a NUL-terminated string owned by `texts`, which lives as long as the program; the two
        // arrays hold `header_texts.len()` entries each.
        let created = unsafe {
            (nvrtc.create)(
                &raw mut handle,
                pointers[0],
                pointers[1],
                header_texts.len() as c_int,
                header_texts.as_ptr(),
                header_names.as_ptr(),
            )
        };
        nvrtc.check(created)?;
        Ok(Self { nvrtc, handle, _texts: texts })
    }

    fn compile(&self, options: &[String]) -> std::result::Result<String, String> {
        let options: Vec<CString> = options
            .iter()
            .map(|option| CString::new(option.as_str()).map_err(|error| error.to_string()))
            .collect::<std::result::Result<_, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: `handle` was created by NVRTC and is destroyed only on drop; the array holds as many strings as it says,
        // which outlive the call.
        let compiled = unsafe { (self.nvrtc.compile)(self.handle, pointers.len() as c_int, pointers.as_ptr()) };
        if let Err(error) = self.nvrtc.check(compiled) {
            return Err(self.text(self.nvrtc.log_size, self.nvrtc.log).unwrap_or(error));
        }
        self.text(self.nvrtc.ptx_size, self.nvrtc.ptx)
    }

    /// One of the texts that NVRTC gives in two calls: how long it is, then the text.
    fn text(
        &self,
        size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
        copy: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    ) -> std::result::Result<String, String> {
        let mut length = 0;
        // SAFETY: `handle` was created by NVRTC, and the pointer is valid for one write.
        self.nvrtc.check(unsafe { size(self.handle, &raw mut length) })?;
        let mut bytes = vec![0_u8; length];
        // SAFETY: the buffer is as long as NVRTC asked for.
        self.nvrtc.check(unsafe { copy(self.handle, bytes.as_mut_ptr().cast()) })?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(length);
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: created by NVRTC, destroyed once. An error here would only say that it leaked.
        let _ = unsafe { (self.nvrtc.destroy)(&raw mut self.handle) };
    }
}

/// The entry of a line such as `.file 2 "kernels/machine/mask.cuh"` in a PTX text's table of files: the file's number, which
/// `.loc` lines refer to, and where on the line its name stands.
pub fn file_entry(line: &str) -> Option<(u32, Range<usize>)> {
    let rest = line.trim_start().strip_prefix(".file")?;
    let number = rest.split_whitespace().next()?.parse().ok()?;
    let start = line.find('"')? + 1;
    let end = line.rfind('"').filter(|end| *end >= start)?;
    Some((number, start..end))
}

/// Makes the `.file` table say `kernels/v2b.cu` and `cuda/mma.h` instead of where they were compiled.
fn strip_machine_paths(ptx: &str, include: &Path, sources: &Sources) -> String {
    let include = include.display().to_string();
    let mut lines: Vec<String> = Vec::new();
    for line in ptx.lines() {
        let mut line = line.to_owned();
        if let Some((_, name)) = file_entry(&line) {
            let path = line[name.clone()].replace("/./", "/");
            let stable = match path.strip_prefix(&include) {
                Some(rest) => format!("cuda/{}", rest.trim_start_matches('/')),
                // In-memory files are reported below the working folder, or by their bare name.
                None => sources
                    .iter()
                    .map(|(name, _)| name)
                    .filter(|name| path.ends_with(name))
                    .max_by_key(|name| name.len())
                    .map_or(path.clone(), |name| format!("kernels/{name}")),
            };
            line.replace_range(name, &stable);
        }
        lines.push(line);
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_the_table_of_files_are_read() {
        let line = "\t.file\t12 \"a b.cuh\"";
        assert_eq!(file_entry(line).map(|(number, name)| (number, &line[name])), Some((12, "a b.cuh")));
        for other in ["\t.loc\t1 2 3", ".file", ".file 1", ".file 1 \"", ".file x \"a\"", "// .file 1 \"a\""] {
            assert_eq!(file_entry(other), None, "{other}");
        }
    }

    #[test]
    fn file_tables_forget_the_machine() {
        let mut sources = Sources::default();
        sources.insert("v1.cu", "");
        sources.insert("shared/params.cuh", "");
        let ptx = "\t.file\t1 \"/home/me/evo/v1.cu\"\n\t.file\t2 \"/opt/toolkit/include/crt/mma.hpp\"\n\
                   \t.file\t3 \"/home/me/evo/shared/params.cuh\"\n\t.loc\t1 2 3\n";
        assert_eq!(
            strip_machine_paths(ptx, Path::new("/opt/toolkit/include"), &sources),
            "\t.file\t1 \"kernels/v1.cu\"\n\t.file\t2 \"cuda/crt/mma.hpp\"\n\
             \t.file\t3 \"kernels/shared/params.cuh\"\n\t.loc\t1 2 3\n"
        );
    }
}
