//! What each step of the tree changed: how much of the parent's code a generation keeps, and how much of its own is new.

use std::fmt::Write as _;

use sdpa::generations;
use sdpa_toolchain::{Sources, ToolchainError, code_lines};
use serde::Serialize;
use similar::{Algorithm, DiffOp, capture_diff_slices};

/// The region of ARCHITECTURE.md that holds the table, between markers of this name.
pub const REGION: &str = "steps";

/// From a parent to its child, in lines of code: comments and blanks aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EvolutionStep {
    /// The generation that it starts from.
    pub parent: String,
    /// The generation that it makes.
    pub child: String,
    /// The child's one idea.
    pub title: String,
    /// The parent's lines.
    pub parent_lines: usize,
    /// Those that the child has, too, in the same order.
    pub kept: usize,
    /// The child's lines that the parent does not have.
    pub new: usize,
}

impl EvolutionStep {
    /// The step between two sources.
    fn between(parent: &str, child: &str) -> (usize, usize, usize) {
        let (parent, child) = (code_lines(parent), code_lines(child));
        let operations = capture_diff_slices(Algorithm::Myers, &parent, &child);
        let kept = |operation: &DiffOp| match operation {
            DiffOp::Equal { len, .. } => *len,
            _ => 0,
        };
        let kept: usize = operations.iter().map(kept).sum();
        (parent.len(), kept, child.len() - kept)
    }

    /// Lines kept of the parent's, in percent, rounded down: a goal that is reached is reached.
    pub fn percent_kept(&self) -> usize {
        (100 * self.kept).checked_div(self.parent_lines).unwrap_or(100)
    }
}

/// Every step of the tree, oldest child first.
///
/// # Errors
/// [`ToolchainError::NoSource`] if a generation's file is not there.
pub fn steps(sources: &Sources) -> Result<Vec<EvolutionStep>, ToolchainError> {
    let text = |id: &str| {
        let path = format!("{id}.cu");
        sources.get(&path).ok_or(ToolchainError::NoSource { path: path.clone() })
    };
    let mut steps = Vec::new();
    for who in generations::ALL.iter().map(|generation| generation.generation()) {
        let Some(parent) = who.parent else { continue };
        let (parent_lines, kept, new) = EvolutionStep::between(text(parent)?, text(who.id)?);
        steps.push(EvolutionStep {
            parent: parent.to_owned(),
            child: who.id.to_owned(),
            title: who.title.to_owned(),
            parent_lines,
            kept,
            new,
        });
    }
    Ok(steps)
}

/// The table in ARCHITECTURE.md.
pub fn render_markdown(steps: &[EvolutionStep]) -> String {
    let mut text = "| step | idea | parent's lines kept | new lines |\n|---|---|---:|---:|\n".to_owned();
    for step in steps {
        let EvolutionStep { parent, child, title, parent_lines, kept, new } = step;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {parent} → {child} | {title} | {} % ({kept} of {parent_lines}) | {new} |",
            step.percent_kept()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_where_they_stand_in_the_same_order() {
        let parent = "// V1\nint a;\nint b;\n\nint c;\n";
        assert_eq!(EvolutionStep::between(parent, parent), (3, 3, 0));
        // A comment is no line, an indentation no change.
        assert_eq!(EvolutionStep::between(parent, "  int a; // first\nint d;\nint c;\nint e;\n"), (3, 2, 2));
        assert_eq!(EvolutionStep::between(parent, ""), (3, 0, 0));
    }

    #[test]
    fn a_goal_is_not_reached_by_rounding() {
        let step = |kept| EvolutionStep {
            parent: "v1".into(),
            child: "v2".into(),
            title: "idea".into(),
            parent_lines: 1000,
            kept,
            new: 3,
        };
        assert_eq!([799, 800].map(|kept| step(kept).percent_kept()), [79, 80]);
        insta::assert_snapshot!(render_markdown(&[step(799)]), @r"
        | step | idea | parent's lines kept | new lines |
        |---|---|---:|---:|
        | v1 → v2 | idea | 79 % (799 of 1000) | 3 |
        ");
    }
}
