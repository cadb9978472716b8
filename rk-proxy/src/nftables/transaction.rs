//! From what differs to the text of one transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use super::{
    base::ip,
    compile::{Compiled, Element, Value},
};
use crate::Family;

/// Elements in one command: a line that a person can still look at.
const ELEMENTS_PER_COMMAND: usize = 100;

/// Changes to the tables of all families, to be made at once.
#[derive(Debug, Default)]
pub(super) struct Transaction(BTreeMap<Family, Part>);

/// Changes to one table, in the order in which they are written: nothing may be named before it
/// is there, or go while it is named.
#[derive(Debug, Default)]
struct Part {
    new_chains: BTreeSet<String>,
    new_sets: BTreeMap<String, String>,
    flushed_chains: BTreeSet<String>,
    deleted_elements: BTreeMap<&'static str, Vec<String>>,
    rules: BTreeMap<String, Vec<String>>,
    new_elements: BTreeMap<&'static str, Vec<String>>,
    deleted_chains: BTreeSet<String>,
    deleted_sets: BTreeSet<String>,
}

impl Transaction {
    /// The chains and sets of a service port, as they were and as they are to be. What is the
    /// same is left alone, so that a set keeps its elements.
    pub(super) fn replace(&mut self, was: Option<Compiled>, is: Option<Compiled>) {
        let Some(family) = was.as_ref().or(is.as_ref()).map(|compiled| compiled.family) else {
            return;
        };
        let part = self.0.entry(family).or_default();
        let (old_chains, old_sets) = was.map(|c| (c.chains, c.sets)).unwrap_or_default();
        let (new_chains, new_sets) = is.map(|c| (c.chains, c.sets)).unwrap_or_default();

        for chain in old_chains.keys().filter(|chain| !new_chains.contains_key(*chain)) {
            part.flushed_chains.insert(chain.clone());
            part.deleted_chains.insert(chain.clone());
        }
        for (chain, rules) in new_chains {
            match old_chains.get(&chain) {
                Some(old) if *old == rules => continue,
                Some(_) => part.flushed_chains.insert(chain.clone()),
                None => part.new_chains.insert(chain.clone()),
            };
            part.rules.insert(chain, rules);
        }
        let gone = old_sets.keys().filter(|set| !new_sets.contains_key(*set));
        part.deleted_sets.extend(gone.cloned());
        part.new_sets.extend(new_sets.into_iter().filter(|(set, _)| !old_sets.contains_key(set)));
    }

    /// An element of a shared map, as it was and as it is to be.
    pub(super) fn element(&mut self, element: Element, was: Option<Value>, is: Option<Value>) {
        if was == is {
            return;
        }
        let part = self.0.entry(element.family()).or_default();
        if was.is_some() {
            part.deleted_elements.entry(element.map()).or_default().push(element.to_string());
        }
        if let Some(value) = is {
            part.new_elements.entry(element.map()).or_default().push(match value {
                Some(verdict) => format!("{element} : {verdict}"),
                None => element.to_string(),
            });
        }
    }

    /// Elements of empty maps.
    pub(super) fn elements(&mut self, all: BTreeMap<Element, Value>) {
        for (element, value) in all {
            self.element(element, None, Some(value));
        }
    }

    /// Writes the commands.
    pub(super) fn write(&self, text: &mut String, table: &str) {
        for (family, part) in &self.0 {
            part.write(text, &format!("{} {table}", ip(*family)));
        }
    }
}

impl Part {
    fn write(&self, text: &mut String, table: &str) {
        let mut line = |command: std::fmt::Arguments<'_>| {
            // Writing to a string cannot fail.
            let _ = text.write_fmt(command);
            text.push('\n');
        };
        for chain in &self.new_chains {
            line(format_args!("add chain {table} {chain}"));
        }
        for (set, definition) in &self.new_sets {
            line(format_args!("add set {table} {set} {{ {definition} ; }}"));
        }
        for chain in &self.flushed_chains {
            line(format_args!("flush chain {table} {chain}"));
        }
        for (map, elements) in &self.deleted_elements {
            for some in elements.chunks(ELEMENTS_PER_COMMAND) {
                line(format_args!("delete element {table} {map} {}", super::braces(some)));
            }
        }
        for (chain, rules) in &self.rules {
            for rule in rules {
                line(format_args!("add rule {table} {chain} {rule}"));
            }
        }
        for (map, elements) in &self.new_elements {
            for some in elements.chunks(ELEMENTS_PER_COMMAND) {
                line(format_args!("add element {table} {map} {}", super::braces(some)));
            }
        }
        for chain in &self.deleted_chains {
            line(format_args!("delete chain {table} {chain}"));
        }
        for set in &self.deleted_sets {
            line(format_args!("delete set {table} {set}"));
        }
    }
}
