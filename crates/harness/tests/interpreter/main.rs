//! What `sdpa check`, `sdpa counters` and `sdpa mutate` find in the kernels as they are.

mod check;
mod counters;
mod large_logits;
mod mutate;
