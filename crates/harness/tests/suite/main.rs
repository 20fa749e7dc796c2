//! Every property for every generation, by name: `cargo test -p harness v2b::causal_prefix`.

mod agreement;
mod batches;
mod contradictory_lengths;
mod harness_itself;
mod plans;

use harness::mutants::{self, SeenBy};
use harness::suite::{isolated, prove, remembered};
use harness::verify::{Thoroughness, verify_thoroughly};
use harness::{for_each_mutant, for_each_property, properties, real_model};
use sdpa::{for_each_generation, generations};
use sdpa_core::{Attention as _, Device, DeviceChoice};
use sdpa_ref::Judged;

macro_rules! generation_suites {
    ($(($id:ident, $feature:literal, $generation:path);)*) => {
        $(mod $id {
            use super::*;

            for_each_property!(property_tests, [$id]);

            #[test]
            fn remembered_cases() {
                run_remembered(concat!(module_path!(), "::remembered_cases"), stringify!($id));
            }

            #[test]
            fn real_model() {
                let generation = generations::find(stringify!($id)).expect("stamped from the list");
                isolated(concat!(module_path!(), "::real_model"), |device| real_model::check(device, generation));
            }
        })*
    };
}

macro_rules! property_tests {
    ([$id:ident] $($name:ident)*) => {
        $(#[test]
        fn $name() {
            let generation = generations::find(stringify!($id)).expect("stamped from the list");
            let property = properties::find(stringify!($name)).expect("stamped from the list");
            prove(concat!(module_path!(), "::", stringify!($name)), generation, property);
        })*
    };
}

for_each_generation!(generation_suites);

fn run_remembered(test: &'static str, id: &'static str) {
    let generation = generations::find(id).expect("stamped from the list");
    isolated(test, |device| {
        let (mut ran, mut declined, mut judged) = (0, 0, Judged::default());
        for (property, case) in remembered(id) {
            match property.check(device, generation, &case) {
                Ok(rows) => {
                    ran += 1;
                    judged += rows;
                }
                Err(failure) if failure.unsupported().is_some() => declined += 1,
                Err(failure) => return Err(failure.to_string()),
            }
        }
        match ran {
            0 => Err(format!("none of the remembered cases ran, {declined} were declined")),
            _ if judged.rows == judged.unjudged => Err(format!("{ran} remembered cases judged no row")),
            _ => Ok(format!("{ran} remembered cases, {judged}, {declined} declined")),
        }
    });
}

macro_rules! mutant_tests {
    ($($name:ident, $parent:literal, [$($kernel:literal),*], $seen_by:ident, $fault:literal;)*) => {
        mod mutant {
            use super::*;

            $(mod $name {
                use super::*;

                #[test]
                fn is_rejected() {
                    reject(concat!(module_path!(), "::is_rejected"), stringify!($name));
                }
            })*
        }
    };
}

for_each_mutant!(mutant_tests);

/// Some case of the list finds the mutant wrong. Not being able to run is no verdict; a kernel that breaks the device is.
fn reject(test: &'static str, name: &'static str) {
    let mutant = mutants::find(name).expect("stamped from the list");
    isolated(test, |device| match mutant.seen_by {
        SeenBy::Everywhere => reject_on(device, mutant),
        SeenBy::Interpreter => {
            let interpreter = sdpa_core::open(DeviceChoice::Interpreter).map_err(|error| error.to_string())?;
            reject_on(&*interpreter, mutant).map(|text| format!("{text}, by the interpreter"))
        }
    });
}

fn reject_on(device: &dyn Device, mutant: &mutants::Mutant) -> Result<String, String> {
    let kind = device.kind();
    let thoroughness = Thoroughness { repetitions: mutants::repetitions(kind), ..Thoroughness::default() };
    let (mut accepted, mut declined) = (0, Vec::new());
    for trial in mutants::trials(kind) {
        let Err(failure) = verify_thoroughly(device, &trial.subject(mutant), &trial.case, thoroughness) else {
            accepted += 1;
            continue;
        };
        if let Some(reason) = failure.unsupported() {
            declined.push(reason.to_string());
        } else if failure.is_verdict() {
            let reason = failure.reason.to_string();
            let headline = reason.lines().take(2).map(str::trim).collect::<Vec<_>>().join(" ");
            let number = accepted + declined.len() + 1;
            let size = trial.size.map(|size| format!(" ({size})")).unwrap_or_default();
            return Ok(format!("rejected in case {number}{size}: {headline}"));
        } else {
            return Err(format!("the mutant could not be judged:\n{failure}"));
        }
    }
    match accepted {
        0 => Ok(format!("not run: {}", declined.join("; "))),
        _ => Err(format!("{} passes as right in {accepted} cases, although {}", mutant.generation().id, mutant.fault)),
    }
}
