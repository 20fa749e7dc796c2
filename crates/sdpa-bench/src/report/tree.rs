//! The tree of generations as text: a line per generation, indented only where the tree forks.

use super::{Evidence, Rung};

/// The name of the region.
pub const REGION: &str = "tree";

/// The text between the markers.
pub fn render(evidence: &Evidence) -> String {
    let mut text = "```text\n".to_owned();
    let known = |id: &String| evidence.rungs.iter().any(|rung| rung.id == *id);
    for root in evidence.rungs.iter().filter(|rung| !rung.parent.as_ref().is_some_and(known)) {
        chain(evidence, root, "", "", &mut text);
    }
    text + "```\n"
}

/// A generation and all that came from it. An only child stands below its parent, several each on a branch.
fn chain(evidence: &Evidence, rung: &Rung, first: &str, indent: &str, text: &mut String) {
    *text += &format!("{first}{:<4} {}\n", rung.id, rung.title);
    let children: Vec<&Rung> = evidence.rungs.iter().filter(|child| child.parent.as_ref() == Some(&rung.id)).collect();
    if let [only] = children.as_slice() {
        return chain(evidence, only, indent, indent, text);
    }
    for (index, child) in children.iter().enumerate() {
        let (turn, bar) = if index + 1 == children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        chain(evidence, child, &format!("{indent}{turn}"), &format!("{indent}{bar}"), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::rung;

    #[test]
    fn a_fork_indents_and_a_chain_does_not() {
        let rungs = vec![
            rung("v1", None),
            rung("v2", Some("v1")),
            rung("v2b", Some("v2")),
            rung("v3", Some("v2")),
            rung("v2c", Some("v2b")),
            rung("v2d", Some("v2b")),
            rung("v3b", Some("v3")),
        ];
        insta::assert_snapshot!(render(&Evidence { rungs, ..Evidence::default() }), @r"
        ```text
        v1   idea of v1
        v2   idea of v2
        ├─ v2b  idea of v2b
        │  ├─ v2c  idea of v2c
        │  └─ v2d  idea of v2d
        └─ v3   idea of v3
           v3b  idea of v3b
        ```
        ");
    }
}
