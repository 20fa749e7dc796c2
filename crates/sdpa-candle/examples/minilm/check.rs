//! `--check`: this crate's functions beside candle's own operations in f32, on the device where they run.

use std::fmt::Write as _;

use candle_core::{DType, Device, IndexOp as _, Result, Tensor, bail};
use sdpa_candle::{
    flash_attn, flash_attn_alibi, flash_attn_alibi_windowed_softcap, flash_attn_lse, flash_attn_varlen_lse,
    flash_attn_varlen_windowed, flash_attn_windowed, sdpa,
};
use serde_json::json;

use crate::Place;
use crate::reference::{Meant, largest_difference, randn, reference};

const SCALE: f32 = 0.3;

/// A check that was made: how far the result is from what is wanted, or why there is none.
struct Line {
    name: String,
    limit: f32,
    found: Result<f32>,
}

impl Line {
    fn passed(&self) -> bool {
        self.found.as_ref().is_ok_and(|found| *found <= self.limit)
    }
}

/// Checks on one device.
struct Checks<'a> {
    device: &'a Device,
    lines: Vec<Line>,
}

/// How far an output may be from what candle computes in f32.
fn limit(dtype: DType) -> f32 {
    if dtype == DType::BF16 { 2e-2 } else { 3e-3 }
}

/// How far a log-sum-exp may be.
const LIMIT_LSE: f32 = 2e-3;

/// Asks twice in a row, without waiting, and wants the same bits.
fn twice<const N: usize>(question: impl Fn() -> Result<[Tensor; N]>) -> Result<[Tensor; N]> {
    let (first, second) = (question()?, question()?);
    for (first, second) in first.iter().zip(&second) {
        if largest_difference(first, second)? != 0.0 {
            bail!("two calls in a row differ");
        }
    }
    Ok(first)
}

impl Checks<'_> {
    fn note(&mut self, name: impl Into<String>, limit: f32, found: Result<f32>) {
        self.lines.push(Line { name: name.into(), limit, found });
    }

    fn tensor(&self, shape: &[usize], dtype: DType, seed: f64) -> Result<Tensor> {
        randn(shape, dtype, seed, self.device)
    }

    /// Query `[2, len_q, heads_q, head_dim]`, key and value.
    fn tensors(&self, dtype: DType, [heads_q, heads_kv, len_q, len_kv, head_dim]: [usize; 5]) -> Result<[Tensor; 3]> {
        Ok([
            self.tensor(&[2, len_q, heads_q, head_dim], dtype, 0.1)?,
            self.tensor(&[2, len_kv, heads_kv, head_dim], dtype, 0.2)?,
            self.tensor(&[2, len_kv, heads_kv, head_dim], dtype, 0.3)?,
        ])
    }

    /// With the log-sum-exp: equal and grouped heads, prompts and decoding, both masks.
    fn dense(&mut self, dtype: DType) -> Result<()> {
        for sizes in [[4, 4, 37, 50, 64], [8, 2, 200, 200, 128], [12, 12, 65, 65, 32], [8, 2, 1, 300, 128]] {
            let [q, k, v] = self.tensors(dtype, sizes)?;
            for causal in [false, true] {
                let [heads_q, heads_kv, len_q, len_kv, head_dim] = sizes;
                let mask = if causal { ", causal" } else { "" };
                let name =
                    format!("{}, {heads_q}/{heads_kv} heads, {len_q} × {len_kv}, d {head_dim}{mask}", dtype.as_str());
                let meant = Meant { scale: SCALE, right: causal.then_some(0), ..Meant::default() };
                let (wanted, wanted_lse) = reference(&q, &k, &v, &meant)?;
                let found = twice(|| {
                    let (found, lse) = flash_attn_lse(&q, &k, &v, SCALE, causal)?;
                    Ok([found, lse, flash_attn(&q, &k, &v, SCALE, causal)?])
                });
                match found {
                    Ok([found, lse, alone]) => {
                        self.note(format!("{name}: flash_attn"), limit(dtype), largest_difference(&alone, &wanted));
                        let same = largest_difference(&found, &alone.to_dtype(DType::F32)?);
                        self.note(format!("{name}: the same with its log-sum-exp"), 0.0, same);
                        let found = largest_difference(&lse, &wanted_lse);
                        self.note(format!("{name}: log-sum-exp"), LIMIT_LSE, found);
                    }
                    Err(error) => self.note(name, limit(dtype), Err(error)),
                }
            }
        }
        Ok(())
    }

    /// Windows, slopes, soft caps and the layout of `sdpa`.
    fn shaped(&mut self, dtype: DType) -> Result<()> {
        let [q, k, v] = self.tensors(dtype, [4, 2, 80, 100, 64])?;
        let numbers = vec![0.5f32, 0.25, 0.125, 0.06];
        let slopes = Tensor::from_vec(numbers.clone(), 4, self.device)?;
        let (left, right) = (Some(6), Some(3));
        let window = Meant { scale: SCALE, left, right, ..Meant::default() };
        let sloped = Meant { scale: SCALE, right: Some(0), slopes: Some(numbers.clone()), ..Meant::default() };
        let all = Meant { slopes: Some(numbers), softcap: 1.5, ..window.clone() };
        let causal = Meant { scale: SCALE, right: Some(0), ..Meant::default() };
        let heads_first = |tensor: &Tensor| tensor.transpose(1, 2);
        type Question<'a> = Box<dyn Fn() -> Result<Tensor> + 'a>;
        let questions: [(&str, Meant, Question); 4] = [
            ("flash_attn_windowed", window, Box::new(|| flash_attn_windowed(&q, &k, &v, SCALE, left, right))),
            ("flash_attn_alibi", sloped, Box::new(|| flash_attn_alibi(&q, &k, &v, &slopes, SCALE, true))),
            (
                "flash_attn_alibi_windowed_softcap",
                all,
                Box::new(|| flash_attn_alibi_windowed_softcap(&q, &k, &v, Some(&slopes), SCALE, left, right, 1.5)),
            ),
            (
                "sdpa",
                causal,
                Box::new(|| {
                    let [q, k, v] = [heads_first(&q)?, heads_first(&k)?, heads_first(&v)?];
                    heads_first(&sdpa(&q, &k, &v, None, true, SCALE, 1.0)?)
                }),
            ),
        ];
        for (name, meant, question) in questions {
            let (wanted, _) = reference(&q, &k, &v, &meant)?;
            let found = twice(|| Ok([question()?])).and_then(|[found]| largest_difference(&found, &wanted));
            self.lines.push(Line { name: format!("{}: {name}", dtype.as_str()), limit: limit(dtype), found });
        }
        Ok(())
    }

    /// Packed sequences of several lengths, grouped heads, beside each sequence alone.
    fn packed(&mut self, dtype: DType) -> Result<()> {
        let lengths = [5u32, 140, 1, 18, 64];
        let mut begins = vec![0];
        lengths.iter().for_each(|length| begins.push(begins[begins.len() - 1] + length));
        let total = begins[lengths.len()] as usize;
        let q = self.tensor(&[total, 4, 64], dtype, 0.1)?;
        let k = self.tensor(&[total, 2, 64], dtype, 0.2)?;
        let v = self.tensor(&[total, 2, 64], dtype, 0.3)?;
        let at = Tensor::from_vec(begins.clone(), begins.len(), self.device)?;
        let causal = Meant { scale: SCALE, right: Some(0), ..Meant::default() };
        let window = Meant { left: Some(4), right: Some(2), ..causal.clone() };
        let plain = twice(|| {
            flash_attn_varlen_lse(&q, &k, &v, &at, &at, 140, 140, SCALE, true).map(|(found, lse)| [found, lse])
        });
        let windowed =
            twice(|| Ok([flash_attn_varlen_windowed(&q, &k, &v, &at, &at, 140, 140, SCALE, Some(4), Some(2))?]));
        // The largest difference over all sequences, of the output and, where there is one, of the log-sum-exp.
        let differences = |found: &Tensor, lse: Option<&Tensor>, meant: &Meant| -> Result<[f32; 2]> {
            let mut largest = [0f32; 2];
            for ends in begins.windows(2) {
                let rows = ends[0] as usize..ends[1] as usize;
                let part = |tensor: &Tensor| tensor.i(rows.clone())?.unsqueeze(0);
                let (wanted, wanted_lse) = reference(&part(&q)?, &part(&k)?, &part(&v)?, meant)?;
                largest[0] = largest[0].max(largest_difference(&part(found)?, &wanted)?);
                if let Some(lse) = lse {
                    let lse = lse.i((.., rows.clone()))?.unsqueeze(0)?;
                    largest[1] = largest[1].max(largest_difference(&lse, &wanted_lse)?);
                }
            }
            Ok(largest)
        };
        let name = dtype.as_str();
        match plain.and_then(|[found, lse]| differences(&found, Some(&lse), &causal)) {
            Ok([found, lse]) => {
                self.note(format!("{name}: flash_attn_varlen, causal"), limit(dtype), Ok(found));
                self.note(format!("{name}: flash_attn_varlen, log-sum-exp"), LIMIT_LSE, Ok(lse));
            }
            Err(error) => self.note(format!("{name}: flash_attn_varlen, causal"), limit(dtype), Err(error)),
        }
        let found = windowed.and_then(|[found]| Ok(differences(&found, None, &window)?[0]));
        self.note(format!("{name}: flash_attn_varlen_windowed"), limit(dtype), found);
        Ok(())
    }

    /// Thirds of one projection, from the middle of a tensor on.
    fn views(&mut self, dtype: DType) -> Result<()> {
        let projected = self.tensor(&[2, 90, 3, 4, 64], dtype, 0.4)?;
        let third = |index: usize| projected.i((.., 3..77, index));
        let (q, k, v) = (third(0)?, third(1)?, third(2)?);
        let (wanted, _) = reference(&q, &k, &v, &Meant { scale: SCALE, ..Meant::default() })?;
        let found = twice(|| Ok([flash_attn(&q, &k, &v, SCALE, false)?]));
        let found = found.and_then(|[found]| largest_difference(&found, &wanted));
        self.note(format!("{}: views into a projection", dtype.as_str()), limit(dtype), found);
        Ok(())
    }

    /// Work of candle's before and after attention, in a chain: the same bits whether or not the host waits after each step. Outputs
    /// are freed while work that reads them is queued.
    fn chained(&mut self, dtype: DType) -> Result<()> {
        let [q, k, v] = self.tensors(dtype, [8, 8, 512, 512, 64])?;
        let chain = |waits: bool| -> Result<Tensor> {
            let mut rows = q.clone();
            for _ in 0..if self.device.is_cpu() { 2 } else { 50 } {
                rows = (flash_attn(&(rows * 1.5)?, &k, &v, SCALE, true)? + &q)?;
                if waits {
                    self.device.synchronize()?;
                }
            }
            Ok(rows)
        };
        let found = chain(false).and_then(|found| largest_difference(&found, &chain(true)?.to_dtype(DType::F32)?));
        self.note(format!("{}: a chain on candle's stream", dtype.as_str()), 0.0, found);
        Ok(())
    }

    /// Threads that share candle's device, each with many calls queued at once: the same bits as one after the other. Decoding and
    /// long prompts have launches whose blocks count, in memory of the device, how many of them have finished.
    fn threads(&mut self, dtype: DType) -> Result<()> {
        let device = self.device;
        let (count, calls, problems) = match device.is_cpu() {
            true => (2, 2, [[8, 2, 1, 300, 64], [2, 2, 70, 70, 64]]),
            false => (8, 100, [[8, 2, 1, 4096, 128], [8, 8, 1024, 1024, 128]]),
        };
        for sizes in problems {
            let attend = |seed: usize, calls: usize| -> Result<Vec<Tensor>> {
                let [q, k, v] = self.tensors(dtype, sizes)?;
                let q = (q * (1.0 + seed as f64 / 8.0))?;
                (0..calls).map(|_| flash_attn(&q, &k, &v, SCALE, true)).collect()
            };
            let at_once = std::thread::scope(|scope| {
                let attend = &attend;
                let threads: Vec<_> = (0..count)
                    .map(|seed| {
                        scope.spawn(move || {
                            let found = attend(seed, calls)?;
                            device.synchronize()?;
                            Ok(found)
                        })
                    })
                    .collect();
                let ended = threads.into_iter().map(|thread| thread.join());
                ended.collect::<std::result::Result<Vec<Result<Vec<Tensor>>>, _>>()
            });
            let found = match at_once {
                Ok(results) => results.into_iter().enumerate().try_fold(0f32, |largest, (seed, results)| {
                    let wanted = attend(seed, 1)?[0].to_dtype(DType::F32)?;
                    results?
                        .iter()
                        .try_fold(largest, |largest, found| Ok(largest.max(largest_difference(found, &wanted)?)))
                }),
                Err(_) => Err(candle_core::Error::msg("a thread panicked")),
            };
            let [heads_q, heads_kv, len_q, len_kv, _] = sizes;
            let name = format!("{}: {count} threads, {heads_q}/{heads_kv} heads, {len_q} × {len_kv}", dtype.as_str());
            self.note(name, 0.0, found);
        }
        Ok(())
    }

    /// The first rows of a causal mask have no key if queries are more than keys: their outputs are 0, their log-sum-exp is −∞.
    fn without_keys(&mut self, dtype: DType) -> Result<()> {
        let [q, k, v] = self.tensors(dtype, [4, 2, 50, 37, 64])?;
        let found = twice(|| {
            let (found, lse) = flash_attn_lse(&q, &k, &v, SCALE, true)?;
            // Infinities of one sign have no difference that is a number.
            Ok([found, lse.exp()?])
        });
        let found = found.and_then(|[found, sums]| {
            let (found, sums) = (found.narrow(1, 0, 13)?, sums.narrow(2, 0, 13)?);
            let zeros =
                |tensor: &Tensor| largest_difference(tensor, &Tensor::zeros(tensor.shape(), DType::F32, self.device)?);
            Ok(zeros(&found)?.max(zeros(&sums)?))
        });
        self.note(format!("{}: rows without keys", dtype.as_str()), 0.0, found);
        Ok(())
    }
}

/// Makes all checks on all places, prints them, and says whether all passed.
pub(crate) fn run(places: &[Place], as_json: bool) -> Result<bool> {
    let (mut text, mut failed, mut count) = (String::new(), Vec::new(), 0);
    for place in places {
        let mut checks = Checks { device: &place.device, lines: Vec::new() };
        for dtype in [DType::F16, DType::BF16] {
            checks.dense(dtype)?;
            checks.shaped(dtype)?;
            checks.packed(dtype)?;
            checks.views(dtype)?;
            checks.chained(dtype)?;
            checks.threads(dtype)?;
            checks.without_keys(dtype)?;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", place.name);
        for line in &checks.lines {
            let verdict = if line.passed() { "ok" } else { "FAILED" };
            let found = match &line.found {
                Ok(found) => format!("{found:.1e} of {:.0e}", line.limit),
                Err(error) => error.to_string(),
            };
            let _ = writeln!(text, "  {verdict:6} {:60} {found}", line.name);
            if !line.passed() {
                failed.push(format!("{}: {}: {found}", place.name, line.name));
            }
        }
        count += checks.lines.len();
    }
    if as_json {
        let devices: Vec<&str> = places.iter().map(|place| place.name.as_str()).collect();
        println!(
            "{}",
            json!({ "example": "candle_check", "devices": devices, "passed": count - failed.len(), "failed": failed })
        );
    } else {
        println!("{text}{}/{count} passed", count - failed.len());
    }
    Ok(failed.is_empty())
}
