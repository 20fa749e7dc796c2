//! What must be true of attention for any numbers. Each property takes any case, bends it to its own question
//! and compares runs with one another, mostly bit for bit, so that no tolerance can hide a fault.

mod extensions;
mod independence;
mod layouts;
mod pages;
mod stored;
mod values;
mod widths;

use sdpa_core::{Attention, Device, Extensions, Layout, Mask, Operand, Problem, ProblemBuilder, ProblemError};
use sdpa_ref::Judged;

use crate::case::Case;
use crate::execute::{Output, Surroundings, execute, rows};
use crate::far::near;
use crate::random::Random;
use crate::regime::Data;
use crate::verify::{Difference, Failure, MATCHES_REFERENCE, Reason, Thoroughness, difference, verify_data};

/// Calls `$callback!` once with the names of all properties, after the other arguments that it is given in brackets.
#[macro_export]
macro_rules! for_each_property {
    ($callback:ident, [$($context:tt)*]) => {
        $callback! {
            [$($context)*]
            matches_reference
            causal_prefix
            batches_are_independent
            heads_are_independent
            nan_query_stays_in_its_row
            nan_key_reaches_only_rows_that_see_it
            strided_is_contiguous
            far_is_near
            grouped_is_repeated
            aligned_masks_agree
            scale_folds_into_the_query
            key_order_does_not_matter
            constant_values_come_back
            single_key_gives_its_value
            output_lies_within_the_values
            rows_without_keys_are_zero
            empty_lengths
            packed_is_each_sequence_alone
            packed_neighbours_do_not_matter
            packed_order_does_not_matter
            wide_window_is_none
            window_hides_the_rest
            sinks_without_weight_are_none
            paged_is_contiguous
            paged_is_each_sequence_alone
            pages_may_lie_anywhere
            paged_neighbours_may_grow
            value_columns_are_independent
            scales_fold_into_what_is_stored
            equal_scales_are_one
            stored_values_come_back
            stored_nan_reaches_its_column
        }
    };
}

/// One property: a name and a question put to a generation.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// Name, as in test names and on the command line.
    pub name: &'static str,
    ask: fn(&Instance<'_>) -> Result<Judged, Reason>,
}

macro_rules! list {
    ([] $($name:ident)*) => {
        /// Every property, the comparison with the oracle first.
        pub const ALL: &[Property] = &[$(Property { name: stringify!($name), ask: questions::$name }),*];
    };
}
for_each_property!(list, []);

/// Where [`ALL`] finds them all.
mod questions {
    pub(super) use super::extensions::*;
    pub(super) use super::independence::*;
    pub(super) use super::layouts::*;
    pub(super) use super::matches_reference;
    pub(super) use super::pages::*;
    pub(super) use super::stored::*;
    pub(super) use super::values::*;
    pub(super) use super::widths::*;
}

/// The property with this name.
pub fn find(name: &str) -> Option<&'static Property> {
    ALL.iter().find(|property| property.name == name)
}

/// Keys and values in pages, and their number on the device.
const PAGED: Extensions = Extensions { paged: true, key_lengths: true, ..Extensions::NONE };

/// Keys and values in e4m3.
const STORED: Extensions = Extensions { kv_e4m3: true, ..Extensions::NONE };

/// Properties that are asked of problems with extensions, and what a generation must take for the question to be one.
const OF_EXTENSIONS: &[(&str, Extensions)] = &[
    ("packed_is_each_sequence_alone", Extensions { packed: true, ..Extensions::NONE }),
    ("packed_neighbours_do_not_matter", Extensions { packed: true, ..Extensions::NONE }),
    ("packed_order_does_not_matter", Extensions { packed: true, ..Extensions::NONE }),
    ("wide_window_is_none", Extensions { window: true, ..Extensions::NONE }),
    ("window_hides_the_rest", Extensions { window: true, ..Extensions::NONE }),
    ("sinks_without_weight_are_none", Extensions { sinks: true, ..Extensions::NONE }),
    ("paged_is_contiguous", PAGED),
    ("paged_is_each_sequence_alone", PAGED),
    ("pages_may_lie_anywhere", PAGED),
    ("paged_neighbours_may_grow", PAGED),
    ("value_columns_are_independent", Extensions { value_dim: true, ..Extensions::NONE }),
    ("scales_fold_into_what_is_stored", STORED),
    ("equal_scales_are_one", STORED),
    ("stored_values_come_back", STORED),
    ("stored_nan_reaches_its_column", STORED),
];

impl Property {
    /// What a generation must take beyond dense attention for this to be a question.
    pub fn needs(&self) -> Extensions {
        OF_EXTENSIONS.iter().find(|(name, _)| *name == self.name).map_or(Extensions::NONE, |(_, needs)| *needs)
    }

    /// True if it is asked of problems with extensions, too; the others are about dense attention.
    pub fn is_of_extensions(&self) -> bool {
        self.name == MATCHES_REFERENCE || self.needs() != Extensions::NONE
    }

    /// Asks whether the property holds for a generation, starting from this case: of how many rows it was seen to.
    ///
    /// # Errors
    /// [`Failure`], also where the generation declines the problem that the case becomes: see [`Failure::unsupported`].
    pub fn check(&self, device: &dyn Device, generation: &dyn Attention, case: &Case) -> Result<Judged, Failure> {
        // Only the first property places rows that lie far apart; the others bend numbers where they lie.
        let near = Case { problem: near(&case.problem).into_owned(), ..case.clone() };
        let dense = Case { problem: near.problem.to_dense(), ..near.clone() };
        let asked = match self.name {
            MATCHES_REFERENCE => case,
            _ if self.is_of_extensions() => &near,
            _ => &dense,
        };
        (self.ask)(&Instance { device, generation, case: asked })
            .map_err(|reason| Failure::new(device, generation, case, self.name, reason))
    }
}

/// A generation on a device, and the case it is asked about.
struct Instance<'a> {
    device: &'a dyn Device,
    generation: &'a dyn Attention,
    case: &'a Case,
}

impl Instance<'_> {
    fn run(&self, problem: &Problem, data: &Data) -> Result<Output, Reason> {
        self.device.set_schedule(self.case.schedule);
        Ok(execute(self.device, self.generation, problem, data, Surroundings::Guarded)?)
    }

    /// The regime's numbers for another problem than the case's own.
    fn data(&self, problem: &Problem) -> Data {
        self.case.regime.generate(problem, self.case.seed)
    }

    /// Other numbers of the same kind.
    fn other_data(&self, problem: &Problem) -> Data {
        self.case.regime.generate(problem, self.case.seed.wrapping_add(1))
    }

    /// Choices that belong to the case.
    fn choices(&self) -> Random {
        Random::new(self.case.seed, &[0x6368_6f69_6365])
    }

    /// The case's extents, to change some of them.
    fn extents(&self) -> Extents {
        let problem = &self.case.problem;
        Extents {
            batch: problem.batch(),
            heads_kv: problem.heads_kv(),
            group: problem.heads_q() / problem.heads_kv(),
            len_q: problem.len_q(),
            len_kv: problem.len_kv(),
        }
    }

    /// The case's problem with other extents: in one of the two contiguous layouts, since its own strides would no
    /// longer fit.
    fn reshape(&self, extents: Extents) -> ProblemBuilder {
        let (old, Extents { batch, heads_kv, group, len_q, len_kv }) = (&self.case.problem, extents);
        Problem::new(batch, heads_kv * group, len_q, old.head_dim())
            .heads_kv(heads_kv)
            .len_kv(len_kv)
            .value_dim(old.value_dim())
            .kv_storage(old.kv_storage())
            .dtype(old.dtype())
            .mask(old.mask())
            .scale(old.scale())
            .layout(if self.case.seed.is_multiple_of(2) { Layout::Bhld } else { Layout::Blhd })
    }

    /// The case's problem with a causal mask.
    fn causal(&self) -> Problem {
        match self.case.problem.mask() {
            Mask::Full => valid(self.case.problem.to_builder().mask(Mask::Causal).build()),
            Mask::Causal | Mask::CausalTopLeft => self.case.problem.clone(),
        }
    }
}

/// The extents of a problem that properties change.
#[derive(Clone, Copy)]
struct Extents {
    batch: usize,
    heads_kv: usize,
    /// Query heads for each key head.
    group: usize,
    len_q: usize,
    len_kv: usize,
}

/// What a property builds of a valid problem is valid.
fn valid(problem: Result<Problem, ProblemError>) -> Problem {
    problem.expect("a valid problem stays valid when a property changes it")
}

fn matches_reference(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let (problem, thoroughness) = (&instance.case.problem, Thoroughness::for_problem(&instance.case.problem));
    let data = instance.case.data();
    let schedule = instance.case.schedule;
    Ok(verify_data(instance.device, instance.generation, problem, &data, schedule, thoroughness)?.judged)
}

/// The rows that `compared` names have the same bits in both outputs.
fn expect_same(
    what: &'static str,
    problem: &Problem,
    found: &Output,
    expected: &Output,
    compared: impl Fn([usize; 3]) -> bool,
) -> Result<Judged, Reason> {
    let judged = rows(problem).filter(|row| compared(*row)).count();
    no_difference(what, judged, difference(problem, found, expected, compared))
}

/// So many rows were compared.
fn no_difference(what: &'static str, compared: usize, difference: Option<Difference>) -> Result<Judged, Reason> {
    match difference {
        None => Ok(Judged::all(compared)),
        Some(difference) => Err(Reason::Differs { what, difference }),
    }
}

/// Every `[batch, head, position]` of an operand.
fn operand_rows(problem: &Problem, operand: Operand) -> impl Iterator<Item = [usize; 3]> {
    let [batches, heads, length, _] = problem.shape(operand);
    (0..batches).flat_map(move |batch| {
        (0..heads).flat_map(move |head| (0..length).map(move |position| [batch, head, position]))
    })
}
