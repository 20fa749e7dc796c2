//! The shapes that every kernel is checked on.

use std::collections::HashMap;
use std::fmt;

use sdpa_core::{Attention, DeviceLimits, Generation, LaunchPlan, MAX_HEAD_DIM, Problem, Specialisation, Unsupported};

use crate::case::Case;

/// Lengths, heads, masks, layouts and numbers; every width below is put in for the head dimension.
const GEOMETRIES: [&str; 16] = [
    // Four key tiles, the last one ragged.
    "L200 full normal seed=1",
    // Key tiles that only the lower half of a query tile sees, and several tiles for a block that stays.
    "h3 q120 kv421 causal normal seed=15",
    // Rows of two query tiles, several heads to a key head, the diagonal at the end.
    "h4/2 q70 kv193 causal normal seed=2",
    // The first rows see no key.
    "h2 q150 kv130 causal ascending seed=3",
    "b2 h2 q37 kv150 causal-top-left blhd peaked seed=4",
    // Many tiles, the last with a single key, under a negative scale.
    "q65 kv577 full scale=-0.25 outliers seed=5",
    // Rows far apart, and other strides for each operand.
    "h2 q35 kv131 causal query=18480,9240,264 key=69168,34584,264 value=69168,264,528 output=18480,264,528 integers seed=6",
    "q1 kv257 causal normal seed=7",
    // Heads that share a tile, and keys enough for several blocks, whose last ones only some rows see.
    "h8/2 q5 kv515 causal-top-left normal seed=13",
    // The same with several blocks to each of two tiles, and the last keys the last rows' alone.
    "h8/2 q5 kv771 causal normal seed=15",
    // Enough rows for the largest tiles, several of whose key tiles need a mask; and a negative scale over keys that fit
    // kernels which hold them all.
    "h8/2 q100 kv197 causal scale=-0.125 normal seed=11",
    // Rows and keys enough for a ring of stages to come round while tiles need a mask.
    "h2 q200 kv450 causal normal seed=13",
    "q150 kv300 full normal seed=14",
    "h5 L1 full normal seed=8",
    // Tiles without any work, several in a row for a block that stays.
    "h5 q5 kv0 full normal seed=9",
    // Long enough for the kernels with a third stage, and few queries, since somebody waits. The last row alone sees
    // the last key.
    "q33 kv2113 causal normal seed=10",
];

/// Head dimensions that fill a kernel's width and that do not, for each kernel that there is so far.
const WIDTHS: [&str; 14] = [
    "d64 f16",
    "d8 f16",
    "d128 f16",
    "d72 f16",
    "d96 f16",
    "d104 f16",
    "d192 f16",
    "d256 f16",
    "d200 f16",
    "d64 bf16",
    "d128 bf16",
    "d88 bf16",
    "d192 bf16",
    "d256 bf16",
];

/// Enough rows for every part of a warp's, and few enough for every head dimension in steps of 8: each is the only one
/// that some guard of some column is for.
const EVERY_WIDTH: &str = "L33 full normal seed=12";

/// A case, and the device that it is planned for.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// The case.
    pub case: Case,
    /// Plans as for a device with so many multiprocessors: some kernels are only taken where a problem fills the
    /// device, and a problem that fills an H200 takes long to interpret. `None` plans for the device as it is.
    pub multiprocessors: Option<u32>,
}

impl Trial {
    /// The generation as this trial plans with it.
    pub fn subject<'g>(&self, generation: &'g dyn Attention) -> Resized<'g> {
        Resized { generation, multiprocessors: self.multiprocessors }
    }

    /// The kernels that a generation takes for this trial.
    ///
    /// # Errors
    /// [`Unsupported`] where it declines.
    pub fn kernels(&self, generation: &dyn Attention) -> Result<Vec<Specialisation>, Unsupported> {
        let plan = self.subject(generation).plan(&self.case.problem, &DeviceLimits::H200)?;
        Ok(plan.launches.iter().map(|launch| launch.kernel).collect())
    }

    /// The command that repeats this trial for a generation.
    pub fn repeat_command(&self, generation: &str) -> String {
        let device = self.multiprocessors.map(|count| format!(" --multiprocessors {count}")).unwrap_or_default();
        format!("cargo run --release -- check {generation} --case \"{}\" --seeds 1{device}", self.case)
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.case)?;
        match self.multiprocessors {
            None => Ok(()),
            Some(1) => f.write_str(" (planned for one multiprocessor)"),
            Some(count) => write!(f, " (planned for {count} multiprocessors)"),
        }
    }
}

/// Every shape that a generation takes, planned for the device as it is; and for a single multiprocessor, where that
/// makes it take other kernels, or makes a kernel's blocks draw tickets: twice with a mask and twice without one.
pub fn trials(generation: &dyn Attention) -> Vec<Trial> {
    let shapes = GEOMETRIES.iter().flat_map(|geometry| WIDTHS.iter().map(move |width| format!("{geometry} {width}")));
    let every_width = (1..=MAX_HEAD_DIM / 8).map(|width| format!("{EVERY_WIDTH} d{} f16", 8 * width));
    let (mut trials, mut drawing) = (Vec::new(), HashMap::<_, usize>::new());
    for line in shapes.chain(every_width) {
        let case: Case = line.parse().expect("the lists make valid cases");
        let [as_it_is, small] = [None, Some(1)].map(|multiprocessors| Trial { case: case.clone(), multiprocessors });
        let (kernels, others) = (as_it_is.kernels(generation), small.kernels(generation));
        let plan = |trial: &Trial| trial.subject(generation).plan(&case.problem, &DeviceLimits::H200).ok();
        let draws = plan(&small).is_some_and(|plan| plan.tickets > 0) && plan(&small) != plan(&as_it_is);
        let drew = drawing.entry((others.clone().ok(), case.problem.mask().is_causal())).or_default();
        *drew += usize::from(draws);
        let differs = others.is_ok() && (others != kernels || draws && *drew <= 2);
        if kernels.is_ok() {
            trials.push(as_it_is);
        }
        if differs {
            trials.push(small);
        }
    }
    trials
}

/// A generation that plans as though its device had another number of multiprocessors.
pub struct Resized<'g> {
    generation: &'g dyn Attention,
    multiprocessors: Option<u32>,
}

impl Attention for Resized<'_> {
    fn generation(&self) -> &Generation {
        self.generation.generation()
    }

    fn plan(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        let multiprocessors = self.multiprocessors.unwrap_or(limits.multiprocessors);
        self.generation.plan(problem, &DeviceLimits { multiprocessors, ..limits.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdpa::generations;

    #[test]
    fn every_kernel_of_every_generation_is_taken_by_some_trial() {
        for generation in generations::ALL {
            let trials = trials(*generation);
            let taken: Vec<Specialisation> = trials
                .iter()
                .flat_map(|trial| trial.kernels(*generation).expect("declined ones are left out"))
                .collect();
            for kernel in generation.generation().specialisations {
                assert!(taken.contains(kernel), "no trial takes {kernel}");
            }
        }
    }

    #[test]
    fn a_trial_repeats_itself_in_one_line() {
        let case = "q3 kv2113 d64 f16 full normal seed=10 schedule=4".parse().unwrap();
        let trial = Trial { case, multiprocessors: Some(1) };
        assert_eq!(
            trial.repeat_command("v2d"),
            "cargo run --release -- check v2d --case \"b1 h1 q3 kv2113 d64 f16 full normal seed=10 schedule=4\" \
             --seeds 1 --multiprocessors 1"
        );
    }
}
