//! No spelling is believed because it decodes: each must be in a probe that a device has run.

use std::collections::BTreeSet;
use std::path::Path;

use ptx_interp::Module;
use ptx_probes::{Recorded, Recording, probes};

use crate::{fixtures, hopper};

/// What no probe can show, and why.
const EXEMPT: &[(&str, &str)] = &[
    ("brkpt", "stops the device"),
    ("trap", "stops the device"),
    ("discard.global.L2", "leaves memory undefined, so that there is nothing to compare"),
    ("mov.u64 %globaltimer", "tells the time"),
];

fn spellings(ptx: &str) -> BTreeSet<String> {
    Module::parse(ptx).expect("parses").spellings().clone()
}

/// Spellings in probes that some device has run.
fn recorded() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut recordings = Vec::new();
    for entry in std::fs::read_dir(folder).expect("there are recordings").flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "bin") {
            let bytes = std::fs::read(entry.path()).expect("is readable");
            recordings.push(Recording::from_bytes(&bytes).expect("is a recording"));
        }
    }
    let known = |probe: &&ptx_probes::Probe| {
        recordings.iter().any(|recording| matches!(recording.of(probe), Recorded::Output(_)))
    };
    probes().iter().filter(known).flat_map(|probe| spellings(&probe.ptx)).collect()
}

fn exempt(spelling: &str) -> bool {
    EXEMPT.iter().any(|(name, _)| *name == spelling)
}

#[test]
fn every_spelling_that_decodes_has_been_recorded() {
    let mut used: BTreeSet<String> =
        hopper::all().iter().flat_map(|statement| spellings(&hopper::text(statement))).collect();
    for fixture in fixtures::ALL {
        used.extend(spellings(fixture.ptx()));
    }
    for probe in probes() {
        used.extend(spellings(&probe.ptx));
    }
    let recorded = recorded();
    let missing: Vec<_> = used.iter().filter(|spelling| !recorded.contains(*spelling) && !exempt(spelling)).collect();
    assert!(
        missing.is_empty(),
        "{} spellings have no recording; `sdpa record` makes one:\n{missing:#?}",
        missing.len()
    );
}

#[test]
fn every_spelling_has_a_probe() {
    let probed: BTreeSet<String> = probes().iter().flat_map(|probe| spellings(&probe.ptx)).collect();
    let mut used: BTreeSet<String> =
        hopper::all().iter().flat_map(|statement| spellings(&hopper::text(statement))).collect();
    for fixture in fixtures::ALL {
        used.extend(spellings(fixture.ptx()));
    }
    let missing: Vec<_> = used.iter().filter(|spelling| !probed.contains(*spelling) && !exempt(spelling)).collect();
    assert!(missing.is_empty(), "{} spellings have no probe:\n{missing:#?}", missing.len());
}
