//! What was learned, with what supports and what contradicts it.

use serde::{Deserialize, Serialize};

use super::candidate::{Claim, Moves};
use super::lineage::{Entry, Standing};

/// A claim, and what the candidates that made or used it say of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Insight {
    /// `i1` is the first.
    pub id: String,
    /// What is claimed.
    #[serde(flatten)]
    pub claim: Claim,
    /// The candidate that claimed it first.
    pub from: String,
    /// Candidates that bear it out.
    pub supported_by: Vec<String>,
    /// Candidates that speak against it.
    pub contradicted_by: Vec<String>,
}

/// Every insight of a lineage, in the order in which they were claimed. The same text is the same insight.
pub fn insights(entries: &[Entry]) -> Vec<Insight> {
    let mut found: Vec<Insight> = Vec::new();
    for entry in entries.iter().filter(|entry| entry.standing != Standing::Repeated) {
        if let Some(claim) = &entry.insight
            && !found.iter().any(|known| known.claim.text == claim.text)
        {
            let id = format!("i{}", found.len() + 1);
            let (supported_by, contradicted_by) = (Vec::new(), Vec::new());
            found.push(Insight { id, claim: claim.clone(), from: entry.id.clone(), supported_by, contradicted_by });
        }
        let parent = entry.parents.first().and_then(|id| entries.iter().find(|other| other.id == *id));
        for insight in &mut found {
            let claims = entry.insight.as_ref().is_some_and(|claim| claim.text == insight.claim.text);
            if !claims && !entry.uses.contains(&insight.id) {
                continue;
            }
            match bears_out(&insight.claim, entry, parent) {
                Some(true) => insight.supported_by.push(entry.id.clone()),
                Some(false) => insight.contradicted_by.push(entry.id.clone()),
                None => {}
            }
        }
    }
    found
}

/// Whether a candidate bears a claim out. A candidate that does not compile says nothing; one that is wrong speaks against it.
fn bears_out(claim: &Claim, entry: &Entry, parent: Option<&Entry>) -> Option<bool> {
    if let Some(step) = entry.judged.failed() {
        return (!matches!(step.name.as_str(), "applies" | "compiles")).then_some(false);
    }
    let parent = parent?;
    // Of a parent that was wrong there is nothing to compare with: to be right is what the claim was about.
    if parent.standing == Standing::Rejected {
        return Some(true);
    }
    if let (Some(figure), Some(moves)) = (&claim.figure, claim.moves) {
        let (own, before) = (entry.count(figure)?, parent.count(figure)?);
        return match moves {
            Moves::Down => Some(own < before),
            Moves::Up => Some(own > before),
        };
    }
    match entry.standing {
        Standing::Faster => Some(true),
        Standing::Slower => Some(false),
        Standing::Right => {
            let (own, before) = (entry.gain()?, parent.gain()?);
            (own != before).then_some(own > before)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::lineage::tests::entry;
    use super::*;

    #[test]
    fn candidates_support_and_contradict() {
        let claim = |text: &str| Some(Claim { text: text.to_owned(), figure: None, moves: None });
        let mut better = entry("c1", Some("c0"), Some(80));
        better.insight = claim("small tiles issue less");
        let mut wrong = entry("c2", Some("c0"), None);
        wrong.uses = vec!["i1".to_owned()];
        let mut counted = entry("c3", Some("c1"), Some(90));
        let figure = Some("warp instructions".to_owned());
        counted.insight = Some(Claim { text: "more of them".to_owned(), figure, moves: Some(Moves::Up) });
        let mut same = entry("c4", Some("c3"), Some(90));
        same.insight = claim("small tiles issue less");
        let found = insights(&[entry("c0", None, Some(100)), better, wrong, counted, same]);
        let text = |insight: &Insight| {
            format!("{} {}: +{:?} -{:?}", insight.id, insight.claim.text, insight.supported_by, insight.contradicted_by)
        };
        insta::assert_snapshot!(found.iter().map(text).collect::<Vec<_>>().join("\n"), @r#"
        i1 small tiles issue less: +["c1"] -["c2"]
        i2 more of them: +["c3"] -[]
        "#);
    }
}
