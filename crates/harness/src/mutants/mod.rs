//! Kernels that are wrong on purpose. A harness that cannot fail proves nothing, so it must reject every one.
//!
//! Two kinds: [`Mutant`]s are CUDA kernels in `kernels/mutants/`, each a generation with one fault, for the faults that
//! only a real kernel can have (races above all). [`Fault`]s are Rust functions on a device of their own, for everything
//! else that a check claims to notice.

mod faults;
mod host;

use std::sync::LazyLock;

use sdpa_core::{
    Attention, DeviceKind, DeviceLimits, Extensions, Generation, LaunchPlan, PackedPtx, Problem, Specialisation,
    Unsupported,
};

pub use faults::Fault;
pub use host::{HostDevice, HostGeneration};

use crate::check::{self, Trial};
use sdpa::generations;

/// Calls `$callback!` once with one `name, parent, [specialisations], who sees it, what is wrong;` per mutant.
#[macro_export]
macro_rules! for_each_mutant {
    ($callback:ident) => {
        $callback! {
            shared_statistics_race, "v2b", ["f16_d64_s2"], Everywhere, "four warps update one row's maximum and sum";
            missing_syncthreads, "v2b", ["f16_d64_s2"], Everywhere, "nothing orders the warps";
            missing_syncwarp, "v2b", ["f16_d64_s2"], Interpreter, "nothing orders the lanes that share a row";
            missing_async_wait, "v2b", ["f16_d64_s2"], Everywhere, "tiles are read while they are being copied";
            misaligned_async_copy, "v2b", ["f16_d64_s2"], Everywhere, "16-byte copies go to 8-byte boundaries";
            out_of_bounds_tail, "v2b", ["f16_d64_s2"], Everywhere, "rows behind the tensors are read";
            mask_off_by_one, "v2b", ["f16_d64_s2"], Everywhere, "causal rows see one key too many";
            wrong_causal_alignment, "v2b", ["f16_d64_s2"], Everywhere, "causal masks are always aligned top-left";
            last_tile_dropped, "v2b", ["f16_d64_s2"], Everywhere, "the last tile of keys is not attended to";
            no_scale, "v2b", ["f16_d64_s2"], Everywhere, "the scores are not scaled";
            mean_of_value, "v2b", ["f16_d64_s2"], Everywhere, "every key weighs the same";
            swizzle_off_by_one, "v2d", ["f16_d64_m64"], Everywhere, "fragments are read as the next row is permuted";
            unguarded_ring, "v2d", ["f16_d64_m64"], Interpreter, "nothing orders the warps between key tiles";
            stale_stage, "v2d", ["f16_d64_m64"], Everywhere, "fragments are read from the tile before";
            one_wait_too_few, "v2d", ["f16_d64_m64"], Everywhere, "one copy too many may be under way";
            unweighted_parts, "v2f", ["f16_d64_m16", "f16_merge_m16"], Everywhere, "parts are added whatever their maxima";
            unwritten_parts, "v2f", ["f16_d64_m16", "f16_merge_m16"], Interpreter, "parts that were never written are merged";
            unordered_arrival, "v2g", ["f16_d64_g8"], Interpreter, "a relaxed counter says that the parts are written";
            early_arrival, "v2g", ["f16_d64_g8"], Interpreter, "a block arrives before all its threads have written";
            lost_part, "v2g", ["f16_d64_g8"], Interpreter, "parts are merged before the last one is written";
            kept_count, "v2g", ["f16_d64_g8"], Interpreter, "the counter of arrivals is not put back";
            missing_wgmma_wait, "v3", ["f16_d64"], Interpreter, "no wait for the products";
            far_half_dropped, "v3d", ["f16_d64_m128"], Everywhere, "the last tile's far half is never attended to";
            missing_proxy_fence, "v3", ["f16_d64"], Interpreter, "the copy engine may not see what was written";
            sequences_capped, "v2d", ["f16_d64_m128", "f16_d64_m64"], Everywhere, "sequences from the fifth on are taken for the fourth";
            keys_capped, "v2d", ["f16_d64_m64"], Everywhere, "keys beyond the first 4096 are not attended to";
            group_rounded, "v2d", ["f16_d64_m64"], Everywhere, "groups of query heads are taken for powers of two";
            packed_group_rounded, "v2g", ["f16_d64_g8"], Everywhere, "groups that share a tile are taken for powers of two";
            narrow_offset, "v2d", ["f16_d64_m64"], Interpreter, "a head's offset is computed in 32 bits";
            block_scope_arrival, "v2g", ["f16_d64_g8"], Interpreter, "an arrival orders nothing beyond its block";
            relaxed_wait, "v3", ["f16_d64"], Interpreter, "waits on barriers acquire nothing";
            early_query_release, "v3c", ["f16_d64_m192", "f16_d64_m256"], Interpreter, "queries are given back before they are read";
            values_as_wide_as_keys, "v2k", ["f16_d192_v128"], Everywhere, "rows of values and outputs have the columns of keys";
            values_lie_as_keys, "v2k", ["f16_d192_v128"], Everywhere, "values are taken to lie as far apart as keys";
            query_columns_in_order, "v2l", ["f16_d64_g8"], Everywhere, "queries' columns lie in another order than keys'";
            lagging_lanes, "v3f", ["f16_d64_m128", "f16_d256"], Interpreter, "lanes that lag behind a wait may miss a phase";
            too_many_registers, "v3c", ["f16_d64_m128", "f16_d64_m192", "f16_d64_m256"], Interpreter, "more registers are asked for than there are";
        }
    };
}

/// The PTX of all mutants, made by `sdpa build-ptx mutants`.
pub static PTX: PackedPtx = PackedPtx::new("mutants", include_bytes!("../../mutants.ptx.zst"));

/// Which devices can show a mutant's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeenBy {
    /// Every device must reject it.
    Everywhere,
    /// On a GPU it mostly happens to give the right result; the interpreter finds the missing order itself.
    Interpreter,
}

/// A generation with one fault: it plans as its parent does and runs `kernels/mutants/<name>.cu` instead.
pub struct Mutant {
    parent: &'static dyn Attention,
    /// What is wrong with it.
    pub fault: &'static str,
    /// Where that shows.
    pub seen_by: SeenBy,
    generation: Generation,
}

macro_rules! collect {
    ($($name:ident, $parent:literal, [$($kernel:literal),*], $seen_by:ident, $fault:literal;)*) => {
        /// Every mutant.
        pub static ALL: LazyLock<Vec<Mutant>> = LazyLock::new(|| vec![
            $(Mutant::new(
                stringify!($name),
                concat!("mutants/", stringify!($name), ".cu"),
                $parent,
                &[$($kernel),*],
                SeenBy::$seen_by,
                $fault,
            )),*
        ]);
    };
}
for_each_mutant!(collect);

/// The mutant with this name.
pub fn find(name: &str) -> Option<&'static Mutant> {
    ALL.iter().find(|mutant| mutant.generation.id == name)
}

impl Mutant {
    fn new(
        name: &'static str,
        source: &'static str,
        parent: &'static str,
        kernels: &[&str],
        seen_by: SeenBy,
        fault: &'static str,
    ) -> Self {
        let parent = generations::find(parent).expect("a mutant's parent is a generation");
        let of_parent = parent.generation();
        let built: Vec<Specialisation> = of_parent
            .specialisations
            .iter()
            .filter(|kernel| kernels.contains(&kernel.name))
            .map(|kernel| Specialisation { source, ptx: &PTX, ..*kernel })
            .collect();
        let generation = Generation {
            id: name,
            title: fault,
            parent: Some(of_parent.id),
            // Made once, for the list that lives as long as the program.
            specialisations: Vec::leak(built),
            ..of_parent.clone()
        };
        Self { parent, fault, seen_by, generation }
    }
}

impl Attention for Mutant {
    fn generation(&self) -> &Generation {
        &self.generation
    }

    fn needs(&self) -> Extensions {
        self.parent.needs()
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        let mut plan = self.parent.plan(problem, limits)?;
        for launch in &mut plan.launches {
            let (generation, kernel) = (self.generation.id, launch.kernel.name);
            let built = self.generation.specialisations.iter().find(|built| built.name == kernel);
            launch.kernel = *built.ok_or(Unsupported::NotBuilt { generation, kernel })?;
        }
        Ok(plan)
    }
}

/// Trials of which at least one must show each mutant's fault: ragged, with several tiles of keys and of queries, more
/// and fewer queries than keys; then the sizes that few callers have.
pub fn trials(device: DeviceKind) -> Vec<Trial> {
    const ANYWHERE: &[&str] = &[
        "L200 d64 f16 full normal seed=1",
        "q70 kv200 d64 f16 causal normal seed=2 schedule=1",
        "h2 q150 kv130 d64 f16 causal ascending seed=3 schedule=2",
        "q65 kv260 d40 f16 full blhd peaked seed=4 schedule=3",
        // Few queries of many keys, whose last part only some rows see.
        "h4/2 q7 kv700 d64 f16 causal-top-left ascending seed=8 schedule=4",
        "h4/2 q7 kv700 d64 f16 full ascending seed=9 schedule=5",
    ];
    // A GPU's races need many blocks and many tries to show; the interpreter sees them in one.
    const GPU: &[&str] = &[
        "b2 h8 L1024 d64 f16 full normal seed=5",
        "b2 h8 L1024 d64 f16 causal ascending seed=6",
        "b4 h16 L1000 d64 f16 full outliers seed=7",
    ];
    let more = if device == DeviceKind::Cuda { GPU } else { &[] };
    let case = |line: &&str| Trial::new(line.parse().expect("the list holds valid cases"));
    // What is far apart takes a GPU gigabytes; there property `far_is_near` asks for it.
    let beyond = check::beyond().into_iter().filter(|trial| device == DeviceKind::Interpreter || !trial.is_far());
    ANYWHERE.iter().chain(more).map(case).chain(beyond).collect()
}

/// How often each case is run again, looking for other bits.
pub const fn repetitions(device: DeviceKind) -> u32 {
    match device {
        DeviceKind::Cuda => 30,
        DeviceKind::Interpreter => 1,
    }
}
