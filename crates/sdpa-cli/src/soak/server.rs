//! The server without its device: sequences that come, grow and end, and the pages that they take and give back.

use harness::random::Random;

use super::{Report, Shape};

/// What stands where no slot, and no page, is meant.
const NO_SLOT: i64 = -1;
const NO_PAGE: u32 = u32::MAX;

/// The pages of the cache.
pub(super) struct Pages {
    /// Those that nobody uses; the one that was given back last is taken first.
    pub(super) free: Vec<u32>,
    /// How many sequences use each.
    users: Vec<u32>,
    taken: u64,
    most: usize,
    faults: Vec<String>,
}

impl Pages {
    fn new(count: usize, random: &mut Random) -> Self {
        let mut free: Vec<u32> = (0..count as u32).collect();
        for last in (1..count).rev() {
            free.swap(last, random.below(last + 1));
        }
        Self { free, users: vec![0; count], taken: 0, most: 0, faults: Vec::new() }
    }

    fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        if self.users[page as usize] > 0 {
            self.faults.push(format!("page {page} was free and in use"));
        }
        self.users[page as usize] += 1;
        self.taken += 1;
        self.most = self.most.max(self.users.len() - self.free.len());
        Some(page)
    }

    fn share(&mut self, page: u32) {
        self.users[page as usize] += 1;
    }

    fn give_back(&mut self, page: u32) {
        match self.users[page as usize].checked_sub(1) {
            Some(users) => self.users[page as usize] = users,
            None => self.faults.push(format!("page {page} was given back by nobody who used it")),
        }
        if self.users[page as usize] == 0 {
            self.free.push(page);
        }
    }
}

/// A sequence that is served.
pub(super) struct Sequence {
    /// What each of its tokens is drawn from.
    pub(super) tokens: Vec<u64>,
    pub(super) pages: Vec<u32>,
    prompt: usize,
    /// Keys at which it ends.
    target: usize,
}

/// What a step uploads. Rows beyond the tokens are appended nowhere and attend to nothing.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// What each new token is drawn from, sequence after sequence.
    pub(super) tokens: Vec<u64>,
    /// `[tokens of the shape]`.
    pub(super) slots: Vec<i64>,
    /// Where each sequence's new tokens begin and the last one's end.
    pub(super) starts: Vec<u32>,
    /// Keys of each sequence, the new ones counted.
    pub(super) lengths: Vec<u32>,
    /// `[sequences, pages of the longest]`.
    pub(super) table: Vec<u32>,
}

impl Step {
    /// Of a shape, without a sequence.
    pub(super) fn empty(shape: &Shape) -> Self {
        Self {
            tokens: Vec::new(),
            slots: vec![NO_SLOT; shape.tokens],
            starts: vec![0; shape.sequences + 1],
            lengths: vec![0; shape.sequences],
            table: vec![NO_PAGE; shape.sequences * shape.most_keys.div_ceil(shape.page)],
        }
    }

    /// The rows of a sequence's new tokens.
    pub(super) fn rows(&self, place: usize) -> std::ops::Range<usize> {
        self.starts[place] as usize..self.starts[place + 1] as usize
    }
}

pub(super) struct Server {
    pub(super) shape: Shape,
    random: Random,
    pub(super) pages: Pages,
    /// Who is at each place of the batch.
    pub(super) places: Vec<Option<Sequence>>,
    sequences: u64,
    shared_prefixes: u64,
    ended: u64,
    evicted: u64,
    tokens: u64,
}

impl Server {
    pub(super) fn new(shape: Shape, seed: u64) -> Self {
        let mut random = Random::new(seed, &[0x736f_616b]);
        let pages = Pages::new(shape.pages, &mut random);
        let places = (0..shape.sequences).map(|_| None).collect();
        Self { shape, random, pages, places, sequences: 0, shared_prefixes: 0, ended: 0, evicted: 0, tokens: 0 }
    }

    /// Sequences end, come and grow: the next step.
    pub(super) fn step(&mut self) -> Step {
        for place in 0..self.places.len() {
            match &self.places[place] {
                Some(sequence) if sequence.tokens.len() >= sequence.target => {
                    self.ended += 1;
                    self.end(place);
                }
                None if self.random.chance(0.3) => self.begin(place),
                _ => {}
            }
        }
        loop {
            let mut step = Step::empty(&self.shape);
            // Another place comes first in each step, so that nobody waits for ever.
            let count = self.places.len();
            let first = self.random.below(count);
            let mut new = vec![0; count];
            let mut left = self.shape.tokens;
            for place in (0..count).map(|index| (first + index) % count) {
                new[place] = self.grow(place, left);
                left -= new[place];
            }
            if left < self.shape.tokens || self.places.iter().all(Option::is_none) {
                self.tokens += (self.shape.tokens - left) as u64;
                self.describe(&new, &mut step);
                return step;
            }
            // All wait for a page: somebody has to go.
            let longest = |place: &usize| self.places[*place].as_ref().map_or(0, |sequence| sequence.pages.len());
            let place = (0..count).max_by_key(longest).unwrap_or(0);
            self.evicted += 1;
            self.end(place);
        }
    }

    fn begin(&mut self, place: usize) {
        let most = self.shape.most_keys;
        let random = &mut self.random;
        let mut sequence = Sequence { tokens: Vec::new(), pages: Vec::new(), prompt: 0, target: 0 };
        let others: Vec<&Sequence> = self.places.iter().flatten().collect();
        if !others.is_empty() && random.chance(0.4) {
            // Its prompt begins as another one does: with whole pages, which nobody writes any more.
            let parent = others[random.below(others.len())];
            let shared = (parent.tokens.len() / self.shape.page).min((most - 1) / self.shape.page);
            sequence.tokens = parent.tokens[..shared * self.shape.page].to_vec();
            sequence.pages = parent.pages[..shared].to_vec();
            sequence.pages.iter().for_each(|page| self.pages.share(*page));
            self.shared_prefixes += u64::from(shared > 0);
        }
        // Mostly short prompts, and now and then one of up to half of what there is.
        let longest = if random.chance(0.25) { most / 2 } else { most / 8 };
        sequence.prompt = (sequence.tokens.len() + 1 + random.below(longest)).min(most);
        sequence.target = (sequence.prompt + 1 + random.below(self.shape.most_grown)).min(most);
        self.sequences += 1;
        self.places[place] = Some(sequence);
    }

    pub(super) fn end(&mut self, place: usize) {
        let ended = self.places[place].take();
        ended.into_iter().flat_map(|sequence| sequence.pages).for_each(|page| self.pages.give_back(page));
    }

    /// Gives a sequence its next tokens, at most so many, and as many as there are pages for: how many these are.
    fn grow(&mut self, place: usize, most: usize) -> usize {
        let Some(sequence) = &mut self.places[place] else { return 0 };
        let length = sequence.tokens.len();
        let wanted = match sequence.prompt.checked_sub(length) {
            Some(left) if left > 0 => left,
            _ if self.random.chance(0.8) => 1,
            // As many as a draft of a smaller model that was right.
            _ => 2 + self.random.below(3),
        };
        let wanted = wanted.min(most).min(self.shape.most_new).min(sequence.target - length);
        while sequence.pages.len() * self.shape.page < length + wanted {
            let Some(page) = self.pages.take() else { break };
            sequence.pages.push(page);
        }
        let new = wanted.min(sequence.pages.len() * self.shape.page - length);
        sequence.tokens.extend((0..new).map(|_| self.random.bits()));
        new
    }

    fn describe(&self, new: &[usize], step: &mut Step) {
        let Shape { page, most_keys, .. } = self.shape;
        let width = most_keys.div_ceil(page);
        for (place, new) in new.iter().enumerate() {
            if let Some(sequence) = &self.places[place] {
                let length = sequence.tokens.len();
                for position in length - new..length {
                    let slot = sequence.pages[position / page] as usize * page + position % page;
                    step.slots[step.tokens.len()] = slot as i64;
                    step.tokens.push(sequence.tokens[position]);
                }
                step.lengths[place] = length as u32;
                step.table[place * width..][..sequence.pages.len()].copy_from_slice(&sequence.pages);
            }
            step.starts[place + 1] = step.tokens.len() as u32;
        }
    }

    /// Ends all sequences; what is wrong with the pages then, and what was before.
    pub(super) fn drain(&mut self) -> Vec<String> {
        (0..self.places.len()).for_each(|place| self.end(place));
        let mut free = self.pages.free.clone();
        free.sort_unstable();
        if !free.iter().copied().eq(0..self.shape.pages as u32) {
            self.pages.faults.push(format!("at the end {} of {} pages are free", free.len(), self.shape.pages));
        }
        std::mem::take(&mut self.pages.faults)
    }

    pub(super) fn tell(&self, report: &mut Report) {
        report.sequences = self.sequences;
        report.shared_prefixes = self.shared_prefixes;
        (report.ended, report.evicted) = (self.ended, self.evicted);
        report.tokens = self.tokens;
        (report.pages_taken, report.most_pages) = (self.pages.taken, self.pages.most);
    }
}
