//! The interpreter against outputs that a device gave: every `golden/*.bin` there is.

use std::collections::HashSet;
use std::path::Path;

use ptx_probes::{Bound, Probe, Recorded, RecordedOutput, Recording, probes};

use crate::arithmetic::run;

/// What holding the interpreter to a recording found.
#[derive(Default)]
struct Replay {
    replayed: usize,
    missing: Vec<String>,
    stale: Vec<String>,
    /// How far apart the outputs are that need not be the same.
    distances: Vec<String>,
    wrong: Vec<String>,
}

fn replay(recording: &Recording, probes: &[Probe]) -> Replay {
    let mut found = Replay::default();
    for probe in probes {
        match recording.of(probe) {
            Recorded::Missing => found.missing.push(probe.name.clone()),
            Recorded::Stale => found.stale.push(probe.name.clone()),
            Recorded::Output(device) => {
                found.replayed += 1;
                match probe.compare(device, &run(probe)) {
                    Ok(agreement) if probe.bound != Bound::Exact => found.distances.push(format!(
                        "{}: {} of {} words differ, worst {:?} of {:?}",
                        probe.name, agreement.different, agreement.words, agreement.worst, probe.bound
                    )),
                    Ok(_) => {}
                    Err(disagreement) => found.wrong.push(disagreement.to_string()),
                }
            }
        }
    }
    found
}

/// What a device would have recorded that is the interpreter itself.
fn own_recording(probes: &[Probe]) -> Recording {
    let outputs = probes.iter().map(|probe| RecordedOutput {
        name: probe.name.clone(),
        fingerprint: probe.fingerprint(),
        bytes: run(probe),
    });
    Recording { provenance: "the interpreter".into(), outputs: outputs.collect() }
}

#[test]
fn recordings_from_a_device_agree() {
    let probes = probes();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "bin"));
    files.sort();
    if files.is_empty() {
        println!("no recordings: {} probes not recorded", probes.len());
    }
    let mut wrong = Vec::new();
    for path in files {
        let name = path.file_name().unwrap_or_default().display().to_string();
        let bytes = std::fs::read(&path).expect("is readable");
        let recording = Recording::from_bytes(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let found = replay(&recording, &probes);
        println!(
            "{name} ({}): {} probes replayed, {} not recorded{}, {} recorded from another text{}",
            recording.provenance,
            found.replayed,
            found.missing.len(),
            listed(&found.missing),
            found.stale.len(),
            listed(&found.stale),
        );
        for distance in found.distances {
            println!("  {distance}");
        }
        wrong.extend(found.wrong.into_iter().map(|wrong| format!("{name}: {wrong}")));
    }
    assert!(wrong.is_empty(), "{} probes disagree:\n{}", wrong.len(), wrong.join("\n"));
}

fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [first] => format!(" ({first})"),
        [first, .., last] => format!(" ({first} … {last})"),
    }
}

#[test]
fn a_recording_is_small_and_names_are_unique() {
    let probes = probes();
    let names: HashSet<_> = probes.iter().map(|probe| &probe.name).collect();
    assert_eq!(names.len(), probes.len());
    let bytes = own_recording(&probes).to_bytes();
    println!("{} probes, {} bytes", probes.len(), bytes.len());
    assert!(bytes.len() < 2_750_000, "{} bytes are too many for a repository", bytes.len());
}

#[test]
fn sums_have_a_magnitude_for_every_word() {
    for probe in probes() {
        let expected = if matches!(probe.bound, Bound::Sum { .. }) { probe.output_bytes / 4 } else { 0 };
        assert_eq!(probe.magnitudes.len(), expected, "{}", probe.name);
    }
}

#[test]
fn a_changed_recording_disagrees() {
    let probes = probes();
    let mut recording = own_recording(&probes);
    let right = replay(&Recording::from_bytes(&recording.to_bytes()).expect("round trip"), &probes);
    assert_eq!((right.replayed, right.missing.len(), right.wrong.len()), (probes.len(), 0, 0));
    for (probe, output) in probes.iter().zip(&mut recording.outputs) {
        let words = output.bytes.len() / 4;
        let value = |bytes: &[u8], word: usize| {
            f32::from_le_bytes([bytes[4 * word], bytes[4 * word + 1], bytes[4 * word + 2], bytes[4 * word + 3]])
        };
        // One bit anywhere where nothing may differ; the exponent of the largest number where something may.
        let (byte, bit) = if probe.bound == Bound::Exact {
            (output.bytes.len() / 3, 1)
        } else {
            let size = |word: &usize| match value(&output.bytes, *word).abs() {
                size if size.is_finite() => size,
                _ => 0.0,
            };
            let largest = (0..words).max_by(|a, b| size(a).total_cmp(&size(b))).expect("has words");
            (4 * largest + 3, 0x40)
        };
        output.bytes[byte] ^= bit;
    }
    let wrong = replay(&recording, &probes).wrong;
    assert_eq!(wrong.len(), probes.len(), "a change went unnoticed");
    recording.outputs.truncate(3);
    recording.outputs[0].fingerprint ^= 1;
    let partial = replay(&recording, &probes);
    assert_eq!((partial.replayed, partial.stale.len(), partial.missing.len()), (2, 1, probes.len() - 3));
}

#[test]
fn one_hot_products_count_their_places() {
    // The probe's own inputs are right: D's row r is B's row of A's one, times its sign, plus C.
    let probes = probes();
    let name = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 one-hot A";
    let probe = probes.iter().find(|probe| probe.name == name).expect("there is such a probe");
    let output = run(probe);
    for (word, bytes) in output.chunks_exact(4).enumerate() {
        let (warp, lane, register) = (word / 128, word / 4 % 32, word % 4);
        let (row, column) = (lane / 4 + register / 2 * 8, lane % 4 * 2 + register % 2);
        let depth = (warp + 16 - row) % 16;
        let sign = if (row * 16 + depth).is_multiple_of(3) { -1.0 } else { 1.0 };
        let expected = sign * (depth * 8 + column + 1) as f32 + (row * 8 + column) as f32;
        assert_eq!(
            f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            expected,
            "warp {warp}, {row}, {column}"
        );
    }
}
