//! BERT over rows of tokens, from candle-nn's parts. The BERT of candle-transformers has its attention built in; here it is given.

use candle_core::{Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, Module as _, VarBuilder, embedding, layer_norm, linear};
use candle_transformers::models::bert::Config;

/// Attention from `[rows, 3, heads, head_dim]`, which are each row's query, key and value, to `[rows, heads, head_dim]`.
pub(crate) type Attend<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;

/// The encoder. Which rows belong to one sentence is the attention's business alone.
pub(crate) struct Bert {
    words: Embedding,
    positions: Embedding,
    /// The embedding of sentences of the first kind, as all are here.
    kind: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

struct Layer {
    query_key_value: Linear,
    heads: usize,
    attended: Linear,
    attended_norm: LayerNorm,
    wider: Linear,
    narrower: Linear,
    norm: LayerNorm,
}

impl Bert {
    pub(crate) fn load(weights: &VarBuilder, config: &Config) -> Result<Self> {
        let (hidden, of) = (config.hidden_size, weights.pp("embeddings"));
        let kinds = embedding(config.type_vocab_size, hidden, of.pp("token_type_embeddings"))?;
        Ok(Self {
            words: embedding(config.vocab_size, hidden, of.pp("word_embeddings"))?,
            positions: embedding(config.max_position_embeddings, hidden, of.pp("position_embeddings"))?,
            kind: kinds.embeddings().narrow(0, 0, 1)?,
            norm: layer_norm(hidden, config.layer_norm_eps, of.pp("LayerNorm"))?,
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::load(&weights.pp(format!("encoder.layer.{index}")), config))
                .collect::<Result<_>>()?,
        })
    }

    /// The last hidden states `[rows, hidden]` of tokens at positions, both `[rows]` u32.
    pub(crate) fn forward(&self, tokens: &Tensor, positions: &Tensor, attend: Attend) -> Result<Tensor> {
        let rows = (self.words.forward(tokens)? + self.positions.forward(positions)?)?.broadcast_add(&self.kind)?;
        let rows = self.norm.forward(&rows)?;
        self.layers.iter().try_fold(rows, |rows, layer| layer.forward(&rows, attend))
    }
}

impl Layer {
    fn load(weights: &VarBuilder, config: &Config) -> Result<Self> {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let of = |name: &str| linear(hidden, hidden, weights.pp("attention.self").pp(name));
        let projections = [of("query")?, of("key")?, of("value")?];
        let biases = projections.iter().map(|part| part.bias().cloned()).collect::<Option<Vec<_>>>();
        let norm = |name: &str| layer_norm(hidden, config.layer_norm_eps, weights.pp(name));
        Ok(Self {
            query_key_value: Linear::new(
                Tensor::cat(&projections.each_ref().map(|part| part.weight()), 0)?,
                biases.map(|biases| Tensor::cat(&biases, 0)).transpose()?,
            ),
            heads: config.num_attention_heads,
            attended: linear(hidden, hidden, weights.pp("attention.output.dense"))?,
            attended_norm: norm("attention.output.LayerNorm")?,
            wider: linear(hidden, wide, weights.pp("intermediate.dense"))?,
            narrower: linear(wide, hidden, weights.pp("output.dense"))?,
            norm: norm("output.LayerNorm")?,
        })
    }

    fn forward(&self, rows: &Tensor, attend: Attend) -> Result<Tensor> {
        let (count, hidden) = rows.dims2()?;
        let projected = self.query_key_value.forward(rows)?.reshape((count, 3, self.heads, hidden / self.heads))?;
        let attended = self.attended.forward(&attend(&projected)?.reshape((count, hidden))?)?;
        let rows = self.attended_norm.forward(&(attended + rows)?)?;
        let wider = self.wider.forward(&rows)?.gelu_erf()?;
        self.norm.forward(&(self.narrower.forward(&wider)? + &rows)?)
    }
}
