//! `sdpa`: lists, proves, runs, measures and reports the generations.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use commands::UNUSABLE;

/// Attention kernels, one generation after another: list them, prove them, run them on your tensors
#[derive(Parser, Debug)]
#[command(name = "sdpa", version, max_term_width = 100)]
struct Program {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    List(commands::list::List),
    Run(commands::run::Run),
    Verify(commands::verify::Verify),
    Check(commands::check::Check),
    Counters(commands::counters::Counters),
    Coverage(commands::coverage::Coverage),
    Mutate(commands::mutate::Mutate),
    Soak(commands::soak::Soak),
    Prove(commands::prove::Prove),
    Record(commands::record::RecordGolden),
    New(commands::new::New),
    Gate(commands::gate::Gate),
    Bench(commands::bench::Bench),
    Tune(commands::tune::Tune),
    Evolve(commands::evolve::Evolve),
    Lineage(commands::evolve::ShowLineage),
    Why(commands::evolve::Why),
    Replay(commands::evolve::Replay),
    #[command(hide = true)]
    JudgeCandidate(commands::evolve::JudgeCandidate),
    Report(commands::report::WriteReport),
    Resources(commands::resources::Resources),
    BuildPtx(commands::build_ptx::BuildPtx),
    Ptx(commands::ptx::Ptx),
    Sass(commands::sass::CompareSass),
    Steps(commands::steps::Steps),
    Seal(commands::seal::SealGenerations),
}

fn main() -> ExitCode {
    // Not `println!`, which panics where a pipe's reader has gone.
    let out = &mut std::io::stdout().lock();
    let result = match Program::parse().verb {
        Verb::List(verb) => verb.run(out),
        Verb::Run(verb) => verb.run(out),
        Verb::Verify(verb) => verb.run(out),
        Verb::Check(verb) => verb.run(out),
        Verb::Counters(verb) => verb.run(out),
        Verb::Coverage(verb) => verb.run(out),
        Verb::Mutate(verb) => verb.run(out),
        Verb::Soak(verb) => verb.run(out),
        Verb::Prove(verb) => verb.run(out),
        Verb::Record(verb) => verb.run(out),
        Verb::New(verb) => verb.run(out),
        Verb::Gate(verb) => verb.run(out),
        Verb::Bench(verb) => verb.run(out),
        Verb::Tune(verb) => verb.run(out),
        Verb::Evolve(verb) => verb.run(out),
        Verb::Lineage(verb) => verb.run(out),
        Verb::Why(verb) => verb.run(out),
        Verb::Replay(verb) => verb.run(out),
        Verb::JudgeCandidate(verb) => verb.run(out),
        Verb::Report(verb) => verb.run(out),
        Verb::Resources(verb) => verb.run(out),
        Verb::BuildPtx(verb) => verb.run(out),
        Verb::Ptx(verb) => verb.run(out),
        Verb::Sass(verb) => verb.run(out),
        Verb::Steps(verb) => verb.run(out),
        Verb::Seal(verb) => verb.run(out),
    };
    result.unwrap_or_else(|error| {
        // `sdpa list | head -1` has got what it wanted.
        let broken_pipe = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
        if error.downcast_ref::<std::io::Error>().is_some_and(broken_pipe) {
            return ExitCode::SUCCESS;
        }
        eprintln!("error: {error}");
        ExitCode::from(UNUSABLE)
    })
}
