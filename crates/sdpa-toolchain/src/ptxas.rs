//! Running ptxas, and reading what it says.

use std::path::Path;
use std::process::Command;

use sdpa_core::Specialisation;

use crate::resources::{ARCHITECTURES, Multiprocessor, ResourceError};

/// What `ptxas -v` says of one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assembled {
    /// Registers a thread.
    pub registers: u32,
    /// Bytes a thread spills: stores or loads, whichever is more.
    pub spill_bytes: u32,
    /// Bytes of static shared memory a block.
    pub static_shared_bytes: u32,
    /// Warnings, such as serialised wgmma.
    pub warnings: Vec<String>,
}

/// Reads what `ptxas -v` wrote; `None` where it says nothing of a kernel's registers.
pub fn parse_ptxas(output: &str) -> Option<Assembled> {
    let mut found = Assembled::default();
    let mut has_registers = false;
    for line in output.lines() {
        // `16 bytes spill stores, 24 bytes spill loads` and `Used 40 registers, used 1 barriers, 4352 bytes smem`
        for part in line.rsplit(": ").next().unwrap_or(line).split(',') {
            let words: Vec<&str> = part.split_whitespace().collect();
            match words.as_slice() {
                ["Used", count, "registers"] => {
                    found.registers = count.parse().ok()?;
                    has_registers = true;
                }
                [bytes, "bytes", "smem"] => found.static_shared_bytes = bytes.parse().ok()?,
                [bytes, "bytes", "spill", "stores" | "loads"] => {
                    found.spill_bytes = found.spill_bytes.max(bytes.parse().ok()?);
                }
                _ => {}
            }
        }
        let lower = line.to_lowercase();
        if lower.contains("(c75") || lower.contains("serialized") || lower.starts_with("ptxas warning") {
            let text = line.split_once(": ").map_or(line, |(_, text)| text);
            found.warnings.push(text.trim().to_owned());
        }
    }
    has_registers.then_some(found)
}

/// What ptxas says of a PTX text, which stands for `kernel` in its errors.
///
/// # Errors
/// [`ResourceError`] where ptxas cannot be run, refuses the text, or says nothing of it.
pub fn assemble_ptx(
    ptxas: &Path,
    kernel: &Specialisation,
    ptx: &str,
    arch: &Multiprocessor,
) -> Result<Assembled, ResourceError> {
    let (log, _) = run_ptxas(ptxas, kernel, ptx, arch.name)?;
    read_ptxas(kernel, arch, &log)
}

/// [`parse_ptxas`], with an error that names the kernel.
pub(crate) fn read_ptxas(
    kernel: &Specialisation,
    arch: &Multiprocessor,
    output: &str,
) -> Result<Assembled, ResourceError> {
    parse_ptxas(output).ok_or_else(|| ResourceError::Unreadable { kernel: kernel.to_string(), architecture: arch.name })
}

/// The machine code that ptxas makes of a PTX text, which stands for `kernel`, for the first architecture that runs it. Equal
/// texts give equal bytes.
///
/// # Errors
/// [`ResourceError`] if ptxas cannot be run or refuses the text.
pub fn machine_code(ptxas: &Path, kernel: &Specialisation, ptx: &str) -> Result<Vec<u8>, ResourceError> {
    let arch = ARCHITECTURES.iter().find(|arch| arch.runs(kernel.architecture)).unwrap_or(&ARCHITECTURES[0]);
    Ok(run_ptxas(ptxas, kernel, ptx, arch.name)?.1)
}

/// Runs ptxas: what it said, and the cubin that it wrote.
pub(crate) fn run_ptxas(
    ptxas: &Path,
    kernel: &Specialisation,
    ptx: &str,
    architecture: &'static str,
) -> Result<(String, Vec<u8>), ResourceError> {
    let system = |path: &Path| {
        let path = path.to_owned();
        move |source| ResourceError::System { path, source }
    };
    let folder = tempfile::tempdir().map_err(system(&std::env::temp_dir()))?;
    let (source, cubin) = (folder.path().join("kernel.ptx"), folder.path().join("kernel.cubin"));
    std::fs::write(&source, ptx).map_err(system(&source))?;
    let output = Command::new(ptxas)
        .arg("-v")
        .arg(format!("-arch={architecture}"))
        .args([&source, Path::new("-o"), &cubin])
        .output()
        .map_err(system(ptxas))?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let log = log.lines().find(|line| !line.trim().is_empty()).unwrap_or("no word of why").trim().to_owned();
        return Err(ResourceError::Refused { kernel: kernel.to_string(), architecture, log });
    }
    Ok((log, std::fs::read(&cubin).map_err(system(&cubin))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ptxas 13.0 wrote it.
    const PLAIN: &str = "\
ptxas info    : 64 bytes gmem, 128 bytes cmem[4]
ptxas info    : Compiling entry function 'attention' for 'sm_80'
ptxas info    : Function properties for attention
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 536 bytes cmem[0], 16 bytes cmem[2]
ptxas info    : Compile time = 121.247 ms
";

    const SPILLS_AND_WARNS: &str = "\
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources for the wgmma pipeline in the function 'attention'
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'attention' for 'sm_90a'
ptxas info    : Function properties for attention
    24 bytes stack frame, 20 bytes spill stores, 36 bytes spill loads
ptxas info    : Used 168 registers, used 9 barriers, 24 bytes cumulative stack size, 33792 bytes smem
";

    #[test]
    fn ptxas_output_is_read() {
        let expected = Assembled { registers: 128, ..Assembled::default() };
        assert_eq!(parse_ptxas(PLAIN), Some(expected));

        let found = parse_ptxas(SPILLS_AND_WARNS).unwrap();
        assert_eq!((found.registers, found.spill_bytes, found.static_shared_bytes), (168, 36, 33792));
        assert!(found.warnings[0].starts_with("(C7510) Potential Performance Loss"), "{:?}", found.warnings);
    }

    #[test]
    fn what_is_not_ptxas_output_is_refused() {
        assert_eq!(parse_ptxas(""), None);
        assert_eq!(parse_ptxas("ptxas fatal   : Unresolved extern function 'f'"), None);
        assert_eq!(parse_ptxas("ptxas info    : Used many registers"), None);
    }
}
