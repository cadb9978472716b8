//! The graph after any course of events, against a plain list of what is there.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What a watch reports next, about one of a few objects.
#[derive(Clone, Debug)]
enum Happening {
    /// It is there, with these owners, each of which it may block; and how it is being deleted.
    Seen(u8, BTreeMap<u8, bool>, Option<&'static str>),
    /// It is gone.
    Gone(u8),
}

fn happening() -> impl Strategy<Value = Happening> {
    let finalizer = prop::option::weighted(0.3, prop::sample::select(vec![FOREGROUND, ORPHAN]));
    let owners = prop::collection::btree_map(0..6u8, any::<bool>(), 0..3);
    prop_oneof![
        3 => (0..6u8, owners, finalizer).prop_map(|(n, owners, how)| Happening::Seen(n, owners, how)),
        1 => (0..6u8).prop_map(Happening::Gone),
    ]
}

fn uid(n: u8) -> Uid {
    format!("u{n}")
}

fn reference(n: u8, block: bool) -> OwnerReference {
    OwnerReference {
        api_version: "v1".into(),
        kind: "Thing".into(),
        name: uid(n),
        uid: uid(n),
        block_owner_deletion: Some(block),
        controller: None,
    }
}

fn node(n: u8, owners: &BTreeMap<u8, bool>, finalizer: Option<&str>) -> Node {
    Node {
        api_version: "v1".into(),
        kind: "Thing".into(),
        namespace: "ns".into(),
        name: uid(n),
        owners: owners.iter().map(|(owner, block)| reference(*owner, *block)).collect(),
        deleting: finalizer.is_some(),
        finalizers: finalizer.into_iter().map(str::to_owned).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_graph_knows_what_a_list_of_all_objects_knows(
        happenings in prop::collection::vec(happening(), 0..40),
    ) {
        let mut graph = Graph::default();
        let mut list: BTreeMap<Uid, Node> = BTreeMap::new();
        for happening in happenings {
            let look_at = match happening {
                Happening::Seen(n, owners, how) => {
                    let node = node(n, &owners, how);
                    list.insert(uid(n), node.clone());
                    graph.observe(uid(n), node)
                }
                Happening::Gone(n) => {
                    let dependents = graph.dependents_of(&uid(n));
                    list.remove(&uid(n));
                    let look_at = graph.forget(&uid(n));
                    // Whoever had it as an owner has to be judged anew.
                    for dependent in dependents.into_iter().filter(|it| *it != uid(n)) {
                        prop_assert!(look_at.contains(&dependent), "{dependent}");
                    }
                    look_at
                }
            };
            for n in 0..6 {
                let owned = |only_blocking: bool| -> Vec<Uid> {
                    let names = |node: &Node| {
                        let mut owners = node.owners.iter();
                        owners.any(|owner| owner.uid == uid(n) && (!only_blocking || blocks(owner)))
                    };
                    let owned = list.iter().filter(|(_, node)| names(node));
                    owned.map(|(uid, _)| uid.clone()).collect()
                };
                prop_assert_eq!(graph.get(&uid(n)), list.get(&uid(n)));
                prop_assert_eq!(graph.dependents_of(&uid(n)), owned(false));
                prop_assert_eq!(graph.blocking_dependents_of(&uid(n)), owned(true));
                let solid = list.get(&uid(n)).is_some_and(|node| !node.waits_for_dependents());
                prop_assert_eq!(graph.is_solid(&reference(n, true), "ns"), solid);
                if graph.is_gone(&reference(n, true), "ns") {
                    prop_assert!(!owned(false).is_empty(), "nobody asks about {n}");
                }
            }
            for uid in look_at {
                prop_assert!(list.contains_key(&uid), "{uid} is looked at, and is not there");
            }
        }
    }

    #[test]
    fn an_object_stays_while_an_owner_does(
        states in prop::collection::vec(
            prop::sample::select(vec![OwnerState::Solid, OwnerState::Dangling, OwnerState::Waiting]), 0..4),
        has_dependents in any::<bool>(),
    ) {
        let owners: Vec<_> =
            states.iter().zip(0..).map(|(state, n)| (reference(n, true), *state)).collect();
        let solid = states.iter().filter(|state| **state == OwnerState::Solid).count();
        match judge(&owners, has_dependents) {
            Verdict::Keep => prop_assert_eq!(solid, states.len()),
            Verdict::DropReferences(uids) => {
                prop_assert!(solid > 0 && uids.len() == states.len() - solid && !uids.is_empty());
            }
            Verdict::Delete { foreground } => {
                prop_assert!(solid == 0 && !states.is_empty());
                let waits = states.contains(&OwnerState::Waiting);
                prop_assert_eq!(foreground, waits && has_dependents);
            }
        }
    }
}
