//! What calls cost programs, and real models: the tables of `docs/programs.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;

use super::ReportError;

/// The page's name in the folder of documents.
pub const FILE: &str = "programs.md";

/// The page's region.
pub const REGION: &str = "measured";

/// What a program wrote as its last line, kept as a file of `results/programs`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "example", rename_all = "snake_case")]
pub enum ProgramRecord {
    /// `crates/sdpa/examples/host_cost.rs`.
    HostCost(HostCost),
    /// `crates/sdpa-c/examples/host_cost.c`.
    HostCostC(HostCostC),
    /// `python/tests/gpu.py`.
    Python(Python),
    /// `python/examples/minilm.py`.
    Minilm(Minilm),
    /// `crates/sdpa-candle/examples/minilm`.
    CandleMinilm(Minilm),
    /// `python/examples/llama.py`.
    Llama(Llama),
}

/// What a call from Rust costs the host.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HostCost {
    device: String,
    /// Whether kernels were loaded as machine code, and not compiled by the driver.
    machine_code: bool,
    problems: Vec<Calls>,
}

/// What a prepared call from C costs the host.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HostCostC {
    prepared_ns: BTreeMap<String, f64>,
}

/// The calls of one problem.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Calls {
    name: String,
    problem: String,
    generation: String,
    launches: usize,
    first_call_ms: f64,
    forward_ns: f64,
    forward_in_ns: f64,
    prepared_ns: f64,
}

/// What a call from Python costs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Python {
    gpu: String,
    torch: String,
    passed: usize,
    failed: Vec<String>,
    #[serde(default)]
    times: BTreeMap<String, BTreeMap<String, Cost>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct Cost {
    host_us: f64,
    gpu_us: f64,
}

/// Sentence embeddings.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Minilm {
    device: String,
    sentences: usize,
    tokens: usize,
    longest: usize,
    cosine: BTreeMap<String, f64>,
    sentences_per_second: BTreeMap<String, f64>,
    #[serde(default)]
    note: String,
}

/// A Llama of random weights.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Llama {
    device: String,
    layers: usize,
    prompt: usize,
    new: usize,
    batch: usize,
    pytorch: Model,
    evo_sdpa: Model,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct Model {
    prefill_error: f64,
    decoding_error: f64,
    prefill_ms: f64,
    tokens_per_second: f64,
}

/// Reads every record of a folder, by name; none where there is no such folder.
///
/// # Errors
/// [`ReportError::System`] or [`ReportError::Format`].
pub fn read(folder: &Path) -> Result<Vec<ProgramRecord>, ReportError> {
    super::read_folder(folder)
}

/// The region's text: a table for each record.
pub fn render(records: &[ProgramRecord]) -> String {
    let mut text = String::new();
    if records.is_empty() {
        text += "Not measured yet.\n";
    }
    for record in records {
        let table = match record {
            ProgramRecord::HostCost(record) => host_cost(record),
            ProgramRecord::HostCostC(record) => host_cost_c(record),
            ProgramRecord::Python(record) => python(record),
            ProgramRecord::Minilm(record) => minilm("transformers", "python3 examples/minilm.py", record),
            ProgramRecord::CandleMinilm(record) => {
                minilm("candle", "cargo run --release --features cuda,machine-code --example minilm", record)
            }
            ProgramRecord::Llama(record) => llama(record),
        };
        if !text.is_empty() {
            text.push('\n');
        }
        text += &table;
    }
    text
}

fn host_cost(record: &HostCost) -> String {
    let how = match record.machine_code {
        true => "loads machine code (feature `machine-code`)",
        false => "has the driver compile PTX",
    };
    let mut text = format!(
        "### A call from Rust, where a first call {how}\n\n`cargo run --release -p sdpa --example host_cost`, {}: µs of the host \
         per call, and ms of the first one.\n\n\
         | problem | generation | launches | first call, ms | `forward` | `forward_in` | prepared |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: |\n",
        record.device
    );
    for calls in &record.problems {
        let Calls { name, problem, generation, launches, first_call_ms, .. } = calls;
        let [forward, within, prepared] =
            [calls.forward_ns, calls.forward_in_ns, calls.prepared_ns].map(|ns| format!("{:.2}", ns / 1e3));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {name}: {problem} | {generation} | {launches} | {first_call_ms:.1} | {forward} | {within} | {prepared} |"
        );
    }
    text
}

fn host_cost_c(record: &HostCostC) -> String {
    let mut text = "### A prepared call from C\n\n`crates/sdpa-c/examples/host_cost.c`: µs of the host per call.\n\n\
                    | problem | prepared |\n| --- | ---: |\n"
        .to_owned();
    for (problem, ns) in &record.prepared_ns {
        let _ = writeln!(text, "| {problem} | {:.2} |", ns / 1e3);
    }
    text
}

fn python(record: &Python) -> String {
    let Python { gpu, torch, passed, failed, .. } = record;
    let verdict = match failed.len() {
        0 => format!("all {passed} checks passed"),
        count => format!("**{count} of {} checks failed: {}**", passed + count, failed.join(", ")),
    };
    let mut text = format!(
        "### A call from Python\n\n`python3 tests/gpu.py`, {gpu}, PyTorch {torch}: {verdict}. µs per call.\n\n\
         | problem | function | host | GPU |\n| --- | --- | ---: | ---: |\n"
    );
    for (problem, ways) in &record.times {
        for (way, cost) in ways {
            let _ = writeln!(text, "| {problem} | {way} | {:.1} | {:.2} |", cost.host_us, cost.gpu_us);
        }
    }
    text
}

fn minilm(framework: &str, command: &str, record: &Minilm) -> String {
    let Minilm { device, sentences, tokens, longest, note, .. } = record;
    let note = if note.is_empty() { String::new() } else { format!(" {note}.") };
    let mut text = format!(
        "### all-MiniLM-L6-v2 in {framework}\n\n`{command}`, {device}: {sentences} sentences, {tokens} tokens, \
         at most {longest} each.{note} Cosine: the least between an embedding and the model's own in float32.\n\n\
         | attention | cosine | sentences per second |\n| --- | ---: | ---: |\n"
    );
    for (way, cosine) in &record.cosine {
        let speed = record.sentences_per_second.get(way).map_or("–".to_owned(), |speed| format!("{speed:.0}"));
        let names_whose = way.contains("PyTorch") || way.contains("candle");
        let name = if names_whose { way.clone() } else { format!("{way}, ours") };
        let _ = writeln!(text, "| {name} | {cosine:.6} | {speed} |");
    }
    text
}

fn llama(record: &Llama) -> String {
    let Llama { device, layers, prompt, new, batch, .. } = record;
    let mut text = format!(
        "### A Llama of random weights in transformers\n\n`python3 examples/llama.py`, {device}: {layers} layers, a batch of {batch}, \
         a prompt of {prompt} tokens, {new} decoded. Errors: relative, of the logits, beside the same model in float32.\n\n\
         | attention | prefill, ms | decoding, tokens per second | error of prefill | error of decoding |\n\
         | --- | ---: | ---: | ---: | ---: |\n"
    );
    for (name, model) in [("ours", record.evo_sdpa), ("PyTorch's SDPA", record.pytorch)] {
        let Model { prefill_error, decoding_error, prefill_ms, tokens_per_second } = model;
        let _ = writeln!(
            text,
            "| {name} | {prefill_ms:.2} | {tokens_per_second:.0} | {prefill_error:.4} | {decoding_error:.4} |"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(json: &str) -> Vec<String> {
        let record = serde_json::from_str(json).unwrap();
        render(&[record]).lines().map(str::to_owned).collect()
    }

    #[test]
    fn each_programs_last_line_becomes_a_table() {
        let lines = rendered(
            r#"{"example":"host_cost","device":"GPU","machine_code":true,"problems":[{"name":"short","problem":"p",
            "generation":"v2d","launches":1,"first_call_ms":4.04,"forward_ns":5512,"forward_planned_ns":5000,
            "forward_in_ns":3499,"prepared_ns":2501}]}"#,
        );
        assert!(lines[0].ends_with("loads machine code (feature `machine-code`)"), "{lines:?}");
        assert_eq!(lines[6], "| short: p | v2d | 1 | 4.0 | 5.51 | 3.50 | 2.50 |");

        let lines = rendered(r#"{"example":"host_cost_c","prepared_ns":{"p":3456}}"#);
        assert_eq!(lines[6], "| p | 3.46 |");

        let lines = rendered(
            r#"{"example":"python","evo_sdpa":"0.1.0","torch":"2.11","device":"cuda","gpu":"GPU","passed":84,"failed":["streams"],
            "times":{"tiny":{"flash_attn_func":{"host_us":9.96,"gpu_us":2.34567}}}}"#,
        );
        assert!(lines[2].contains("**1 of 85 checks failed: streams**"), "{lines:?}");
        assert_eq!(lines[6], "| tiny | flash_attn_func | 10.0 | 2.35 |");

        let lines = rendered(
            r#"{"example":"minilm","device":"GPU","sentences":256,"tokens":7000,"longest":120,
            "cosine":{"packed":0.99999,"padded, PyTorch's attention":0.999991},"sentences_per_second":{"packed":12345.6},"ok":true}"#,
        );
        assert_eq!(lines[6], "| packed, ours | 0.999990 | 12346 |");
        assert_eq!(lines[7], "| padded, PyTorch's attention | 0.999991 | – |");

        let lines = rendered(
            r#"{"example":"candle_minilm","device":"GPU","sentences":256,"tokens":7000,"longest":120,"note":"",
            "cosine":{"packed, sdpa-candle in f16":0.9999987},"sentences_per_second":{"packed, sdpa-candle in f16":23456.7},"ok":true}"#,
        );
        assert_eq!(lines[0], "### all-MiniLM-L6-v2 in candle");
        assert_eq!(lines[6], "| packed, sdpa-candle in f16 | 0.999999 | 23457 |");

        let model = |ms: f64| {
            format!(r#"{{"prefill_error":0.01,"decoding_error":0.02,"prefill_ms":{ms},"tokens_per_second":99.6}}"#)
        };
        let lines = rendered(&format!(
            r#"{{"example":"llama","device":"GPU","layers":16,"prompt":2048,"new":64,"batch":2,"pytorch":{},"evo_sdpa":{},"ok":true}}"#,
            model(3.0),
            model(2.5)
        ));
        assert_eq!(lines[6], "| ours | 2.50 | 100 | 0.0100 | 0.0200 |");
        assert_eq!(render(&[]), "Not measured yet.\n");
        assert!(serde_json::from_str::<ProgramRecord>(r#"{"example":"another"}"#).is_err());
    }
}
