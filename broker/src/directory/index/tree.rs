//! Filters with wildcards, as a tree over their levels.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::{Leaf, Matches};

/// The root; see [`Node`].
#[derive(Debug, Default)]
pub(crate) struct Tree {
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    /// Literal next levels.
    children: HashMap<Box<str>, Node, RandomState>,
    /// The next level is `+`.
    single: Option<Box<Node>>,
    /// The next level is `#`, which is the last.
    multi: Option<Box<Leaf>>,
    /// A filter ends here.
    leaf: Option<Box<Leaf>>,
}

impl Tree {
    /// The leaf of a filter, made if it is not there.
    pub(crate) fn leaf_mut(&mut self, filter: &str) -> &mut Leaf {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            node = match level {
                "#" => return node.multi.get_or_insert_default(),
                "+" => node.single.get_or_insert_default(),
                literal => node.children.entry(literal.into()).or_default(),
            };
        }
        node.leaf.get_or_insert_default()
    }

    /// The leaf of a filter, if it is there.
    pub(crate) fn leaf(&self, filter: &str) -> Option<&Leaf> {
        let mut node = &self.root;
        for level in filter.split('/') {
            node = match level {
                "#" => return node.multi.as_deref(),
                "+" => node.single.as_deref()?,
                literal => node.children.get(literal)?,
            };
        }
        node.leaf.as_deref()
    }

    /// Changes the leaf of a filter, if it is there, and drops the branch that this empties. Answers what `change` does.
    pub(crate) fn update<T>(
        &mut self,
        filter: &str,
        change: impl FnOnce(&mut Leaf) -> Option<T>,
    ) -> Option<T> {
        let levels: Vec<&str> = filter.split('/').collect();
        self.root.update(&levels, change)
    }

    /// Appends the leaves that match a Topic Name.
    pub(crate) fn matches<'a>(&'a self, topic: &str, found: &mut Matches<'a>) {
        if self.root.is_empty() {
            return;
        }
        // v5 [MQTT-4.7.2-1]: a wildcard at the first level does not match a topic that begins with $.
        if topic.starts_with('$') {
            let (first, rest) =
                topic.split_once('/').map_or((topic, None), |(first, rest)| (first, Some(rest)));
            if let Some(child) = self.root.children.get(first) {
                child.matches(rest, found);
            }
        } else {
            self.root.matches(Some(topic), found);
        }
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.single.is_none() && self.multi.is_none() && self.leaf.is_none()
    }

    /// `rest`: the levels of the topic below this node, `None` when there are no more. Its depth is bounded by the levels
    /// of the filters in the tree, which the broker bounds.
    fn matches<'a>(&'a self, rest: Option<&str>, found: &mut Matches<'a>) {
        // `#` also matches the parent level.
        if let Some(leaf) = &self.multi {
            found.push(leaf);
        }
        let Some(rest) = rest else {
            if let Some(leaf) = &self.leaf {
                found.push(leaf);
            }
            return;
        };
        let (level, below) = rest.split_once('/').map_or((rest, None), |(level, below)| (level, Some(below)));
        if let Some(child) = self.children.get(level) {
            child.matches(below, found);
        }
        if let Some(child) = &self.single {
            child.matches(below, found);
        }
    }

    fn update<T>(&mut self, levels: &[&str], change: impl FnOnce(&mut Leaf) -> Option<T>) -> Option<T> {
        let Some((level, below)) = levels.split_first() else {
            return update_leaf(&mut self.leaf, change);
        };
        match *level {
            "#" => update_leaf(&mut self.multi, change),
            "+" => {
                let child = self.single.as_mut()?;
                let answer = child.update(below, change);
                if child.is_empty() {
                    self.single = None;
                }
                answer
            }
            literal => {
                let child = self.children.get_mut(literal)?;
                let answer = child.update(below, change);
                if child.is_empty() {
                    self.children.remove(literal);
                }
                answer
            }
        }
    }
}

fn update_leaf<T>(leaf: &mut Option<Box<Leaf>>, change: impl FnOnce(&mut Leaf) -> Option<T>) -> Option<T> {
    let found = leaf.as_mut()?;
    let answer = change(found);
    if found.is_empty() {
        *leaf = None;
    }
    answer
}
