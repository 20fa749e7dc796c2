//! Made by `sdpa tune v3d --adopt`. Do not edit.

use sdpa_core::TunedChoice;

/// Problems for which a search has found another kernel to be faster than the one that the rule takes.
pub(crate) static CHOICES: &[TunedChoice] = &[];
