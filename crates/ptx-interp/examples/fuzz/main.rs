//! Looks for texts that make the parser, the decoder or the executor panic or hang.
//!
//! ```text
//! cargo run --release -p ptx-interp --example fuzz -- SECONDS [FIRST_SEED]
//! ```
//!
//! Each seed changes one kernel of the corpus in some places and runs it. A text that panics, or that takes longer than
//! ten seconds, is printed with its seed; the program then exits with 1.

mod mutator;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mutator::{Draws, Fate, changed_kernel, execute};

/// Longer than this is a hang: a launch of 20 000 instructions takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let seconds: Option<u64> = words.next().and_then(|word| word.parse().ok());
    let first: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let Some(seconds) = seconds else {
        eprintln!("usage: fuzz SECONDS [FIRST_SEED]");
        return ExitCode::from(2);
    };
    // The seed under way and when it began, in milliseconds, for the thread that watches for hangs.
    static UNDER_WAY: AtomicU64 = AtomicU64::new(0);
    static BEGAN: AtomicU64 = AtomicU64::new(0);
    let start = Instant::now();
    let now = move || start.elapsed().as_millis() as u64;
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            if now().saturating_sub(BEGAN.load(Ordering::Relaxed)) > PATIENCE.as_millis() as u64 {
                let seed = UNDER_WAY.load(Ordering::Relaxed);
                println!("seed {seed} takes longer than {PATIENCE:?}:\n{}", changed_kernel(&mut Draws::new(seed)));
                std::process::exit(1);
            }
        }
    });
    let mut counts = [0u64; 4];
    let mut seed = first;
    while start.elapsed() < Duration::from_secs(seconds) {
        UNDER_WAY.store(seed, Ordering::Relaxed);
        BEGAN.store(now(), Ordering::Relaxed);
        let outcome = std::panic::catch_unwind(|| {
            let mut draws = Draws::new(seed);
            let text = changed_kernel(&mut draws);
            execute(&text, &mut draws)
        });
        match outcome {
            Ok(fate) => counts[fate as usize] += 1,
            Err(_) => {
                println!("seed {seed} panics:\n{}", changed_kernel(&mut Draws::new(seed)));
                return ExitCode::from(1);
            }
        }
        seed += 1;
    }
    for (fate, count) in [Fate::Unparsed, Fate::Undecoded, Fate::Refused, Fate::Executed].into_iter().zip(counts) {
        println!("{fate:?}: {count}");
    }
    println!("{} texts from seed {first} on, no panic and no hang", seed - first);
    ExitCode::SUCCESS
}
