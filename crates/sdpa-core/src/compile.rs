//! NVRTC: from a kernel source to PTX, the same bytes wherever it runs.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};

use cudarc::nvrtc::{result as nvrtc, sys};

use crate::{Error, Operand, Result, Specialisation, embedded_files, fingerprint};

/// The PTX version that the pinned compiler writes; a newer one would lock out the drivers we promise to run on.
const PTX_VERSION: &str = ".version 9.0";

/// The compiler found on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// NVRTC's version.
    pub version: (i32, i32),
    /// The folder that holds `cuda_fp16.h`.
    pub include: PathBuf,
}

impl Toolchain {
    /// Looks for NVRTC and the CUDA headers: `CUDA_HOME` and `CUDA_PATH` first, then beside the libraries on
    /// `LD_LIBRARY_PATH` (where the wheels of `kernels/requirements.txt` put them), then `/usr/local/cuda`.
    ///
    /// # Errors
    /// [`Error::NoCompiler`] or [`Error::NoHeaders`].
    pub fn find() -> Result<Self> {
        // SAFETY: probing only loads the library, whose initialisers have no preconditions.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::NoCompiler);
        }
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the library is present, and both pointers are valid for one write.
        unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) }.result().map_err(|_| Error::NoCompiler)?;

        let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
        let libraries = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let beside = std::env::split_paths(&libraries).filter_map(|lib| lib.parent().map(Path::to_owned));
        let candidates: Vec<PathBuf> =
            homes.chain(beside).chain([PathBuf::from("/usr/local/cuda")]).map(|home| home.join("include")).collect();
        match candidates.iter().find(|include| include.join("cuda_fp16.h").is_file()) {
            Some(include) => Ok(Self { version: (major, minor), include: include.clone() }),
            None => Err(Error::NoHeaders {
                searched: candidates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
            }),
        }
    }
}

/// The options of a specialisation that decide its PTX; part of its fingerprint.
pub(crate) fn options(kernel: &Specialisation) -> Vec<String> {
    let mut options = vec![
        format!("--gpu-architecture={}", kernel.architecture.name()),
        "--std=c++17".to_owned(),
        // So that a race, a profile or a sanitizer finding names a line of ours.
        "--generate-line-info".to_owned(),
        "-default-device".to_owned(),
    ];
    // Kernels assert that their tiles fill just what the plan will ask the launch for.
    options.push(format!("--define-macro=LAUNCH_THREADS={}", kernel.threads));
    options.push(format!("--define-macro=LAUNCH_SHARED_BYTES={}", kernel.shared_bytes));
    if let Some(boxes) = &kernel.boxes {
        let rows = |operand: Operand| {
            format!("--define-macro=LAUNCH_{}_BOX_ROWS={}", operand.name().to_uppercase(), boxes.rows(operand))
        };
        options.extend(Operand::ALL.map(rows));
    }
    options.extend(kernel.defines.iter().map(|define| format!("--define-macro={define}")));
    options
}

/// Compiles a specialisation from its embedded source to PTX with its fingerprint header.
///
/// The text depends on the sources and the compiler's version only: no path of this machine is left in it.
///
/// # Errors
/// [`Error::NoCompiler`], [`Error::NoHeaders`], or [`Error::Compile`] with the compiler's log.
pub fn compile(kernel: &Specialisation) -> Result<String> {
    let toolchain = Toolchain::find()?;
    let hash = fingerprint(kernel)?;
    let mut options = options(kernel);
    let include = toolchain.include.display().to_string();
    options.push(format!("--include-path={include}"));
    options.push(format!("--include-path={include}/cccl"));

    let ptx = Program::new(kernel)?.compile(kernel, &options)?;
    if !ptx.lines().any(|line| line == PTX_VERSION) {
        let found = ptx.lines().find(|line| line.starts_with(".version")).unwrap_or("no version");
        return Err(Error::Compile {
            kernel: kernel.to_string(),
            log: format!(
                "NVRTC {}.{} wrote {found}; the pinned one writes {PTX_VERSION}: install kernels/requirements.txt",
                toolchain.version.0, toolchain.version.1
            ),
        });
    }
    Ok(format!("{}{}", hash.header(kernel), strip_machine_paths(&ptx, &toolchain.include)))
}

/// An NVRTC program, with every file under `kernels/` as an in-memory header.
struct Program {
    handle: sys::nvrtcProgram,
    // NVRTC may keep pointers into these until the program is destroyed.
    _texts: Vec<CString>,
}

impl Program {
    fn new(kernel: &Specialisation) -> Result<Self> {
        let c_string = |text: &str| {
            CString::new(text).map_err(|_| Error::Compile {
                kernel: kernel.to_string(),
                log: "a source file holds a NUL byte".to_owned(),
            })
        };
        let source = crate::embedded_file(kernel.source)
            .ok_or_else(|| Error::MissingKernel { path: kernel.source.to_owned() })?;
        let mut texts = vec![c_string(source)?, c_string(kernel.source)?];
        let sources = embedded_files().iter().filter(|(path, _)| !path.ends_with(".ptx"));
        for (path, text) in sources.clone() {
            texts.push(c_string(text)?);
            texts.push(c_string(path)?);
        }
        let pointers: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
        let header_texts: Vec<_> = pointers[2..].iter().step_by(2).copied().collect();
        let header_names: Vec<_> = pointers[3..].iter().step_by(2).copied().collect();

        let mut handle = std::ptr::null_mut();
        // SAFETY: every pointer is a NUL-terminated string owned by `texts`, which lives as long as the program; the two
        // arrays hold `header_texts.len()` entries each.
        unsafe {
            sys::nvrtcCreateProgram(
                &raw mut handle,
                pointers[0],
                pointers[1],
                header_texts.len() as c_int,
                header_texts.as_ptr(),
                header_names.as_ptr(),
            )
        }
        .result()
        .map_err(|error| Error::Compile { kernel: kernel.to_string(), log: error.to_string() })?;
        Ok(Self { handle, _texts: texts })
    }

    fn compile(&self, kernel: &Specialisation, options: &[String]) -> Result<String> {
        // SAFETY: `handle` was created by NVRTC and is destroyed only on drop.
        let compiled = unsafe { nvrtc::compile_program(self.handle, options) };
        // SAFETY: as above; the log and the PTX may be asked for once compilation returned.
        let (log, ptx) = unsafe { (nvrtc::get_program_log(self.handle), nvrtc::get_ptx(self.handle)) };
        match (compiled, ptx) {
            (Ok(()), Ok(ptx)) => Ok(text(&ptx)),
            (Err(error), _) | (_, Err(error)) => Err(Error::Compile {
                kernel: kernel.to_string(),
                log: log.map(|log| text(&log)).unwrap_or_else(|_| error.to_string()),
            }),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created by NVRTC, destroyed once. An error here would only say that it leaked.
        let _ = unsafe { nvrtc::destroy_program(self.handle) };
    }
}

fn text(bytes: &[c_char]) -> String {
    let bytes: Vec<u8> = bytes.iter().map(|byte| *byte as u8).chain([0]).collect();
    CStr::from_bytes_until_nul(&bytes).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Makes the `.file` table say `kernels/v2b.cu` and `cuda/mma.h` instead of where they were compiled.
fn strip_machine_paths(ptx: &str, include: &Path) -> String {
    let include = include.display().to_string();
    let mut lines: Vec<String> = Vec::new();
    for line in ptx.lines() {
        let mut line = line.to_owned();
        if let (true, Some(start), Some(end)) =
            (line.trim_start().starts_with(".file"), line.find('"'), line.rfind('"'))
        {
            let path = line[start + 1..end].replace("/./", "/");
            let stable = match path.strip_prefix(&include) {
                Some(rest) => format!("cuda/{}", rest.trim_start_matches('/')),
                // In-memory files are reported below the working folder, or by their bare name.
                None => embedded_files()
                    .iter()
                    .map(|(name, _)| *name)
                    .filter(|name| path.ends_with(name))
                    .max_by_key(|name| name.len())
                    .map_or(path.clone(), |name| format!("kernels/{name}")),
            };
            line.replace_range(start + 1..end, &stable);
        }
        lines.push(line);
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_tables_forget_the_machine() {
        let ptx = "\t.file\t1 \"/home/me/evo/v1.cu\"\n\t.file\t2 \"/opt/toolkit/include/crt/mma.hpp\"\n\
                   \t.file\t3 \"/home/me/evo/common/params.cuh\"\n\t.loc\t1 2 3\n";
        assert_eq!(
            strip_machine_paths(ptx, Path::new("/opt/toolkit/include")),
            "\t.file\t1 \"kernels/v1.cu\"\n\t.file\t2 \"cuda/crt/mma.hpp\"\n\
             \t.file\t3 \"kernels/common/params.cuh\"\n\t.loc\t1 2 3\n"
        );
    }
}
