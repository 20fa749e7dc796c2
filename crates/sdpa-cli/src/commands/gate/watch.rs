//! `sdpa gate --watch`: the gate again, whenever a kernel's file is saved.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use notify::{RecursiveMode, Watcher as _};
use sdpa_core::Attention;
use sdpa_toolchain::{Checkout, Sources};

use crate::commands::Outcome;

/// How long the folder must be quiet: an editor saves in several steps.
const QUIET: Duration = Duration::from_millis(200);

/// Runs this program's own command line without `--watch`, at once and after every save that changes what these generations
/// are made of. A run that a save overtakes is ended. Goes on until it is interrupted.
pub(super) fn watch(out: &mut dyn Write, generations: &[&'static dyn Attention]) -> Outcome {
    let checkout = Checkout::find()?;
    let (sender, events) = channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is no saving, and this program reads. Nobody listens any more once the watch ends.
        if !event.as_ref().is_ok_and(|event| event.kind.is_access()) {
            let _ = sender.send(event);
        }
    })?;
    watcher.watch(&checkout.root().join("kernels"), RecursiveMode::Recursive)?;
    let mut judged = texts(&checkout, generations)?;
    loop {
        let mut run = Run::start()?;
        judged = loop {
            match wait_for_a_save(&events, &mut run, out)? {
                Saved::Nothing => {}
                Saved::Something => match texts(&checkout, generations) {
                    // Half-saved, or moved away for a moment: the next event tells.
                    Err(_) => {}
                    Ok(now) if now == judged => {}
                    Ok(now) => break now,
                },
            }
        };
        drop(run);
        writeln!(out, "\nsaved: judging it again")?;
        out.flush()?;
    }
}

/// What these generations' kernels are made of. Other generations' files do not matter here.
fn texts(checkout: &Checkout, generations: &[&dyn Attention]) -> Result<Sources, Box<dyn std::error::Error>> {
    let all = checkout.sources()?;
    let mut texts = Sources::default();
    for kernel in generations.iter().flat_map(|generation| generation.generation().specialisations) {
        for (path, text) in all.closure(kernel.source)? {
            texts.insert(path, text);
        }
    }
    Ok(texts)
}

/// Whether files changed while one waited.
enum Saved {
    Something,
    Nothing,
}

fn wait_for_a_save(
    events: &Receiver<notify::Result<notify::Event>>,
    run: &mut Run,
    out: &mut dyn Write,
) -> Result<Saved, Box<dyn std::error::Error>> {
    match events.recv_timeout(QUIET) {
        Ok(event) => {
            event?;
            while events.recv_timeout(QUIET).is_ok() {}
            Ok(Saved::Something)
        }
        Err(RecvTimeoutError::Timeout) => {
            if run.ends_now()? {
                writeln!(out, "watching kernels/ for the next save; Ctrl-C ends it")?;
                out.flush()?;
            }
            Ok(Saved::Nothing)
        }
        Err(RecvTimeoutError::Disconnected) => Err("the system no longer tells of saved files".into()),
    }
}

/// A run of the gate in a process of its own, so that it reads everything anew and can be ended.
struct Run {
    child: Child,
    has_ended: bool,
}

impl Run {
    fn start() -> std::io::Result<Self> {
        let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
        arguments.retain(|argument| argument != "--watch");
        let program = std::env::current_exe()?;
        let child = Command::new(Path::new(&program)).args(arguments).spawn()?;
        Ok(Self { child, has_ended: false })
    }

    /// True once, when it has ended.
    fn ends_now(&mut self) -> std::io::Result<bool> {
        let ends = !self.has_ended && self.child.try_wait()?.is_some();
        self.has_ended |= ends;
        Ok(ends)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It may have ended by itself in the meantime.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
