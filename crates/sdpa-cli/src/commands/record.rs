//! `sdpa record`: what the interpreter's probes give on a GPU, for it to be held to everywhere.
//!
//! A child process runs the probes, since a kernel that fails takes its process' CUDA context with it; the next child
//! goes on after the probe that failed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use harness::golden;
use indicatif::ProgressBar;
use ptx_interp::TENSOR_MAP_BYTES;
use ptx_probes::{BLOCK, Probe, RecordedOutput, Recording, probes};
use sdpa::generations;
use sdpa_core::{Cuda, Device, DeviceChoice, DeviceKind, Error};
use sdpa_toolchain::write_whole;

use super::{FAILED, Outcome, bar};

/// Record on this GPU what the interpreter must agree with
///
/// Runs every probe of crates/ptx-probes and writes their outputs into one file named after the GPU, with a README.md
/// beside it that says where it came from. `cargo test -p ptx-probes` holds the interpreter to every recording there
/// is. Then runs every generation on a few small problems and writes what they gave into a second file, which
/// `cargo test -p harness` holds them to on the interpreter. What fails is named and left out, and the exit code is 1.
#[derive(clap::Args, Debug)]
pub(crate) struct RecordGolden {
    /// The folder to write into
    #[arg(long, value_name = "DIR", default_value = "crates/ptx-probes/golden")]
    into: PathBuf,
    /// The folder to write the generations' outputs into
    #[arg(long, value_name = "DIR", default_value = "crates/harness/tests/golden")]
    outputs_into: PathBuf,
    /// Run the probes from this one on and leave each one's output in `into`: the child process
    #[arg(long, value_name = "INDEX", hide = true)]
    child_from: Option<usize>,
}

/// How long one probe may take, the start of its process included.
const PATIENCE: Duration = Duration::from_secs(60);

impl RecordGolden {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        if DeviceChoice::from_env()?.expected_kind() == DeviceKind::Interpreter {
            return Err("recordings are made on a GPU, and this device is the interpreter".into());
        }
        let device = Cuda::new(0)?;
        if let Some(first) = self.child_from {
            return child(&device, &self.into, first);
        }
        let name = device.name();
        let provenance = provenance(&name, device.driver_version()?);
        writeln!(out, "device: {provenance}")?;
        let path = self.outputs_into.join(format!("{}.bin", file_stem(&name)));
        let complete = record_generations(&device, &path, &provenance, out)?;
        drop(device);
        std::fs::create_dir_all(&self.into).map_err(|error| format!("{}: {error}", self.into.display()))?;

        let probes = probes();
        let progress = bar(probes.len() as u64);
        let collected = collect(&probes, &progress);
        progress.finish_and_clear();
        let (outputs, failures) = collected?;
        for (name, reason) in &failures {
            writeln!(out, "failed: {name}: {reason}")?;
        }
        if outputs.is_empty() {
            return Err("no probe ran, nothing is written".into());
        }
        let recorded = outputs.len();
        let bytes = Recording { provenance: provenance.clone(), outputs }.to_bytes();
        let path = self.into.join(format!("{}.bin", file_stem(&name)));
        write_whole(&path, &bytes)?;
        write_whole(&self.into.join("README.md"), readme(&path, &provenance, recorded, &failures).as_bytes())?;
        writeln!(out, "recorded {recorded} of {} probes in {}, {} bytes", probes.len(), path.display(), bytes.len())?;
        Ok(if failures.is_empty() && complete { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
    }
}

/// Runs every generation on its golden cases and writes what they gave; false if one of them failed.
fn record_generations(
    device: &Cuda,
    path: &Path,
    provenance: &str,
    out: &mut dyn Write,
) -> Result<bool, Box<dyn std::error::Error>> {
    let (mut outputs, mut complete) = (Vec::new(), true);
    for generation in generations::ALL {
        for trial in golden::trials(*generation) {
            match golden::run(device, *generation, &trial) {
                Ok(output) => outputs.push(output),
                Err(error) => {
                    writeln!(out, "failed: {}: {error}", golden::name(*generation, &trial))?;
                    complete = false;
                }
            }
        }
    }
    let (recorded, bytes) = (outputs.len(), Recording { provenance: provenance.to_owned(), outputs }.to_bytes());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    write_whole(path, &bytes)?;
    writeln!(out, "recorded {recorded} outputs of generations in {}, {} bytes", path.display(), bytes.len())?;
    Ok(complete)
}

/// A probe's name and why it gave nothing.
type Failure = (String, String);

/// Runs all probes in as many children as it takes.
fn collect(
    probes: &[Probe],
    progress: &ProgressBar,
) -> Result<(Vec<RecordedOutput>, Vec<Failure>), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let (mut outputs, mut failures) = (Vec::new(), Vec::new());
    let mut next = 0;
    while next < probes.len() {
        let first = next;
        let log = folder.path().join("log");
        let mut child = Command::new(std::env::current_exe()?)
            .arg("record")
            .arg("--into")
            .arg(folder.path())
            .arg("--child-from")
            .arg(first.to_string())
            .env("SDPA_DEVICE", "cuda")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .spawn()?;
        let mut since = Instant::now();
        let ending = loop {
            // Asked first, so that what the child left before it ended is seen below.
            let ended = child.try_wait()?;
            let before = next;
            while let Some(probe) = probes.get(next)
                && let Some(result) = result(folder.path(), next)?
            {
                match result {
                    Ok(bytes) => outputs.push(output(probe, bytes)),
                    Err(reason) => failures.push((probe.name.clone(), reason)),
                }
                next += 1;
                progress.inc(1);
            }
            if next > before {
                since = Instant::now();
            }
            if let Some(status) = ended {
                break status.to_string();
            }
            if since.elapsed() > PATIENCE {
                child.kill()?;
                child.wait()?;
                break format!("it did not end within {} seconds", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if next == first {
            // The child did not even leave a reason.
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            let last = log.lines().last().unwrap_or_default();
            failures.push((probes[next].name.clone(), format!("{ending} {last}").trim_end().to_owned()));
            next += 1;
            progress.inc(1);
        }
    }
    Ok((outputs, failures))
}

fn output(probe: &Probe, bytes: Vec<u8>) -> RecordedOutput {
    RecordedOutput { name: probe.name.clone(), fingerprint: probe.fingerprint(), bytes }
}

/// What a child left of a probe: its output, why there is none, or nothing yet.
fn result(folder: &Path, index: usize) -> std::io::Result<Option<Result<Vec<u8>, String>>> {
    let read = |path: PathBuf| match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    if let Some(bytes) = read(output_path(folder, index))? {
        return Ok(Some(Ok(bytes)));
    }
    let reason = read(reason_path(folder, index))?;
    Ok(reason.map(|reason| Err(String::from_utf8_lossy(&reason).into_owned())))
}

fn output_path(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("{index}.out"))
}

fn reason_path(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("{index}.reason"))
}

/// Runs probes until one loses the context, leaving an output or a reason for each.
fn child(device: &Cuda, folder: &Path, first: usize) -> Outcome {
    for (index, probe) in probes().iter().enumerate().skip(first) {
        match run(device, probe) {
            Ok(bytes) => write_whole(&output_path(folder, index), &bytes)?,
            Err(error) => {
                write_whole(&reason_path(folder, index), error.to_string().as_bytes())?;
                if error.is_sticky() {
                    return Ok(ExitCode::from(FAILED));
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run(device: &Cuda, probe: &Probe) -> Result<Vec<u8>, Error> {
    let [a, b, c] = &probe.inputs;
    let (a, b, c) = (device.upload(a)?, device.upload(b)?, device.upload(c)?);
    // What no thread writes would be seen: the interpreter's memory is zero.
    let mut bytes = vec![0xa5; probe.output_bytes];
    let out = device.upload(&bytes)?;
    let addresses = [a.address(), b.address(), c.address(), out.address()];
    for (index, map) in probe.maps.iter().enumerate() {
        device.write(&c, TENSOR_MAP_BYTES * index, &device.encode_tensor_map(&map.at(addresses))?)?;
    }
    let map = probe.map_parameter.as_ref().map(|map| device.encode_tensor_map(&map.at(addresses))).transpose()?;
    let (grid, block) = ([probe.blocks(), 1, 1], [BLOCK, 1, 1]);
    // SAFETY: a probe takes three inputs, an output, a number of threads, and a tensor map where it says so; on the
    // interpreter, which checks every access, all of them stay inside these buffers and end.
    unsafe { device.run_ptx(&probe.ptx, "probe", grid, block, &[&a, &b, &c, &out], &[probe.threads], map) }?;
    device.read(&out, 0, &mut bytes)?;
    Ok(bytes)
}

/// The GPU, its kernel driver where the system tells, and the CUDA it supports; no date, so that the same machine
/// writes the same bytes.
fn provenance(name: &str, (major, minor): (u32, u32)) -> String {
    let driver = std::fs::read_to_string("/sys/module/nvidia/version").unwrap_or_default();
    let driver = match driver.trim() {
        "" => "driver".to_owned(),
        version => format!("driver {version}"),
    };
    format!("{name}, {driver} for CUDA {major}.{minor}")
}

/// A GPU's name as a file's: "NVIDIA H200 (sm_90, …)" is `h200`.
fn file_stem(device: &str) -> String {
    let name = device.split(" (").next().unwrap_or(device).trim_start_matches("NVIDIA ");
    let stem: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    if stem.is_empty() { "device".to_owned() } else { stem }
}

fn readme(path: &Path, provenance: &str, recorded: usize, failures: &[Failure]) -> String {
    let file = path.file_name().unwrap_or_default().display();
    let mut text = format!(
        "# What GPUs gave for the probes\n\nWritten by `sdpa record`; `cargo test -p ptx-probes` holds the interpreter to every `.bin` file here.\n\
         `src/recording.rs` describes the format, `src/lib.rs` how close the interpreter must be and why.\n\n\
         The last one written: `{file}`, {recorded} probes, {provenance}.\n"
    );
    if !failures.is_empty() {
        text += "\nNot recorded, because they failed there:\n\n";
        for (name, reason) in failures {
            text += &format!("- `{name}`: {reason}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_after_its_device() {
        assert_eq!(file_stem("NVIDIA H200 (sm_90, 132 multiprocessors)"), "h200");
        assert_eq!(file_stem("NVIDIA A100-SXM4-80GB (sm_80, 108 multiprocessors)"), "a100_sxm4_80gb");
        assert_eq!(file_stem(""), "device");
    }

    #[test]
    fn what_a_child_leaves_is_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(result(folder.path(), 3).expect("is readable"), None);
        write_whole(&reason_path(folder.path(), 3), b"illegal instruction").expect("is writable");
        assert_eq!(result(folder.path(), 3).expect("is readable"), Some(Err("illegal instruction".into())));
        write_whole(&output_path(folder.path(), 4), &[1, 2]).expect("is writable");
        assert_eq!(result(folder.path(), 4).expect("is readable"), Some(Ok(vec![1, 2])));
    }

    #[test]
    fn the_readme_names_what_failed() {
        let text = readme(Path::new("x/h200.bin"), "a GPU", 7, &[("mma".into(), "illegal instruction".into())]);
        assert!(text.contains("`h200.bin`, 7 probes, a GPU."), "{text}");
        assert!(text.ends_with("- `mma`: illegal instruction\n"), "{text}");
    }
}
