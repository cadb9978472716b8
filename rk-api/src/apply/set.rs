//! Sets of fields.

use std::cmp::Ordering;

use super::{
    path::PathElement,
    schema::{Schema, TypeRef},
};

/// A set of fields of an object. That a field is in the set says nothing about its children or its
/// parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Fields that are in the set, sorted.
    pub(super) members: Vec<PathElement>,
    /// Fields below which there are fields in the set, sorted; no set here is empty.
    pub(super) children: Vec<(PathElement, FieldSet)>,
}

impl FieldSet {
    /// The set of these fields, each a path such as `["metadata", "name"]`.
    pub fn of(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let path: Vec<_> = path.iter().map(|name| PathElement::field(name)).collect();
            set.insert(&path);
        }
        set
    }

    /// Adds a field. The empty path, the whole object, is never in a set.
    pub fn insert(&mut self, path: &[PathElement]) {
        match path {
            [] => {}
            [last] => self.add(last.clone()),
            [first, rest @ ..] => self.descend(first).insert(rest),
        }
    }

    /// Whether a field is in the set.
    pub fn has(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.members.binary_search(last).is_ok(),
            [first, rest @ ..] => self.below(first).is_some_and(|set| set.has(rest)),
        }
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    /// How many fields are in the set.
    pub fn len(&self) -> usize {
        self.members.len() + self.children.iter().map(|(_, set)| set.len()).sum::<usize>()
    }

    /// What is in the set below this field.
    pub fn below(&self, element: &PathElement) -> Option<&Self> {
        let at = self.children.binary_search_by(|(found, _)| found.cmp(element)).ok()?;
        Some(&self.children[at].1)
    }

    /// All fields, parents' members first.
    pub fn paths(&self) -> Vec<Vec<&PathElement>> {
        let mut paths = Vec::new();
        self.collect(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect<'a>(
        &'a self,
        prefix: &mut Vec<&'a PathElement>,
        paths: &mut Vec<Vec<&'a PathElement>>,
    ) {
        for member in &self.members {
            let mut path = prefix.clone();
            path.push(member);
            paths.push(path);
        }
        for (element, set) in &self.children {
            prefix.push(element);
            set.collect(prefix, paths);
            prefix.pop();
        }
    }

    // === algebra ===

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        let members = merge(&self.members, &other.members, |a, b| match (a, b) {
            (Some(element), _) | (None, Some(element)) => Some(element.clone()),
            (None, None) => None,
        });
        let children = merge_children(self, other, |a, b| match (a, b) {
            (Some(a), Some(b)) => a.union(b),
            (Some(only), None) | (None, Some(only)) => only.clone(),
            (None, None) => Self::default(),
        });
        Self { members, children }
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let members = merge(&self.members, &other.members, |a, b| a.and(b).cloned());
        let children = merge_children(self, other, |a, b| match (a, b) {
            (Some(a), Some(b)) => a.intersection(b),
            _ => Self::default(),
        });
        Self { members, children }
    }

    /// What is in this one and not in the other. A parent in the other does not take its children
    /// along.
    #[must_use]
    pub fn difference(mut self, other: &Self) -> Self {
        self.subtract(other);
        self
    }

    /// Takes out what is in the other. Few writes change much of what an object's managers own, so
    /// what stays is left where it is.
    pub fn subtract(&mut self, other: &Self) {
        self.subtract_members(other);
        if !other.children.is_empty() {
            self.children.retain_mut(|(element, set)| {
                if let Some(below) = other.below(element) {
                    set.subtract(below);
                }
                !set.is_empty()
            });
        }
    }

    /// What is in this one and neither in the other nor below a field of the other.
    #[must_use]
    pub fn recursive_difference(mut self, other: &Self) -> Self {
        self.subtract_recursively(other);
        self
    }

    fn subtract_recursively(&mut self, other: &Self) {
        self.subtract_members(other);
        self.children.retain_mut(|(element, set)| {
            if other.members.binary_search(element).is_ok() {
                return false;
            }
            if let Some(below) = other.below(element) {
                set.subtract_recursively(below);
            }
            !set.is_empty()
        });
    }

    /// The fields below which there is nothing in the set.
    #[must_use]
    pub fn leaves(&self) -> Self {
        let members =
            self.members.iter().filter(|element| self.below(element).is_none()).cloned().collect();
        let children =
            self.children.iter().map(|(element, set)| (element.clone(), set.leaves())).collect();
        Self { members, children }
    }

    /// The set with all parents that are fields of a struct: sets do not say that `spec` is owned
    /// when `spec.replicas` is, but removing the one must know of the other.
    #[must_use]
    pub(super) fn with_named_parents(&self, schema: &Schema, kind: TypeRef) -> Self {
        let mut set = Self { members: self.members.clone(), children: Vec::new() };
        for (element, below) in &self.children {
            if let PathElement::Field(name) = element
                && schema.has_field(kind, name)
            {
                set.add(element.clone());
            }
            let below = match schema.step(kind, element) {
                Some(kind) => below.with_named_parents(schema, kind),
                None => below.clone(),
            };
            set.children.push((element.clone(), below));
        }
        set
    }

    // === building ===

    /// Adds a member.
    pub(super) fn add(&mut self, element: PathElement) {
        // Mostly they come in order.
        if self.members.last().is_none_or(|last| *last < element) {
            self.members.push(element);
        } else if let Err(at) = self.members.binary_search(&element) {
            self.members.insert(at, element);
        }
    }

    /// Adds what is below a field, if there is anything.
    pub(super) fn add_below(&mut self, element: &PathElement, set: Self) {
        if set.is_empty() {
            return;
        }
        if self.children.last().is_none_or(|(last, _)| last < element) {
            self.children.push((element.clone(), set));
            return;
        }
        match self.children.binary_search_by(|(found, _)| found.cmp(element)) {
            Ok(at) => self.children[at].1 = self.children[at].1.union(&set),
            Err(at) => self.children.insert(at, (element.clone(), set)),
        }
    }

    /// The set below a field, made if there is none. The caller adds to it.
    fn descend(&mut self, element: &PathElement) -> &mut Self {
        let at = match self.children.binary_search_by(|(found, _)| found.cmp(element)) {
            Ok(at) => at,
            Err(at) => {
                self.children.insert(at, (element.clone(), Self::default()));
                at
            }
        };
        &mut self.children[at].1
    }

    fn subtract_members(&mut self, other: &Self) {
        if !other.members.is_empty() {
            self.members.retain(|element| other.members.binary_search(element).is_err());
        }
    }
}

/// Walks two sorted lists side by side.
fn merge<T>(
    a: &[PathElement],
    b: &[PathElement],
    mut pick: impl FnMut(Option<&PathElement>, Option<&PathElement>) -> Option<T>,
) -> Vec<T> {
    let mut out = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        let order = match (a.get(i), b.get(j)) {
            (Some(a), Some(b)) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            _ => Ordering::Greater,
        };
        let (x, y) = (order.is_le().then(|| &a[i]), order.is_ge().then(|| &b[j]));
        out.extend(pick(x, y));
        i += usize::from(order.is_le());
        j += usize::from(order.is_ge());
    }
    out
}

fn merge_children(
    a: &FieldSet,
    b: &FieldSet,
    pick: impl Fn(Option<&FieldSet>, Option<&FieldSet>) -> FieldSet,
) -> Vec<(PathElement, FieldSet)> {
    let (a, b) = (&a.children, &b.children);
    let mut out = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        let order = match (a.get(i), b.get(j)) {
            (Some(a), Some(b)) => a.0.cmp(&b.0),
            (Some(_), None) => Ordering::Less,
            _ => Ordering::Greater,
        };
        let (x, y) = (order.is_le().then(|| &a[i]), order.is_ge().then(|| &b[j]));
        let set = pick(x.map(|child| &child.1), y.map(|child| &child.1));
        if let Some((element, _)) = x.or(y)
            && !set.is_empty()
        {
            out.push((element.clone(), set));
        }
        i += usize::from(order.is_le());
        j += usize::from(order.is_ge());
    }
    out
}
