//! What to expect of clusters that are not at hand: the tables of `docs/parallel.md`.
//!
//! ```console
//! $ cargo run --release -p sdpa-parallel --example cluster
//! $ cargo run --release -p sdpa-parallel --example cluster -- 262144 16,32
//! ```
//!
//! The first argument is the length, the second the numbers of GPUs; the rates are those of `CLUSTER`.

use sdpa_core::{Dtype, Mask, Problem};
use sdpa_parallel::{CLUSTER, ContextParallel};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let length = arguments.first().map_or(Ok(1 << 20), |length| length.parse())?;
    let counts = arguments.get(1).map_or("8,64,512", String::as_str);
    let counts = counts.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    for (heads, mask) in [(32, Mask::Causal), (32, Mask::Full), (128, Mask::Causal)] {
        let problem = Problem::new(1, heads, length, 128).heads_kv(8).dtype(Dtype::Bf16).mask(mask).build()?;
        println!("{problem}:\n");
        let contexts = counts.iter().map(|ranks| ContextParallel::new(problem.clone(), *ranks));
        println!("{}", CLUSTER.table(&contexts.collect::<Result<Vec<_>, _>>()?)?);
    }
    Ok(())
}
