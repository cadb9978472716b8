//! Lists: Kubernetes' own, cel-go's `ext.Lists` version 3, sets, and what macros call.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use super::{A, B, Cost, Function, Overload, function, global, int, method, operators, strings};
use crate::cel::{
    EvalError, Value,
    error::Effort,
    types::Type,
    value::{Key, List, Map},
};

type Result<'a> = std::result::Result<Value<'a>, EvalError>;

/// One overload for each element type that has an order.
macro_rules! comparable {
    ($prefix:literal, $suffix:literal, $make:expr) => {
        vec![
            $make(concat!($prefix, "int", $suffix), Type::Int),
            $make(concat!($prefix, "uint", $suffix), Type::Uint),
            $make(concat!($prefix, "double", $suffix), Type::Double),
            $make(concat!($prefix, "bool", $suffix), Type::Bool),
            $make(concat!($prefix, "duration", $suffix), Type::Duration),
            $make(concat!($prefix, "timestamp", $suffix), Type::Timestamp),
            $make(concat!($prefix, "string", $suffix), Type::String),
            $make(concat!($prefix, "bytes", $suffix), Type::Bytes),
        ]
    };
}

pub(super) fn functions() -> Vec<Function> {
    use Type::{Bool, Dyn, Int, String};
    let list = Type::list(A);
    let is_text = |of: &Type| matches!(of, Type::String | Type::Bytes);
    let to_bool =
        |id, of: Type| -> Overload { method(id, vec![Type::list(of)], Bool, Cost::ListScan) };
    let to_element = |id, of: Type| method(id, vec![Type::list(of.clone())], of, Cost::ListScan);
    let sets = |id, passes| {
        vec![global(id, vec![list.clone(), list.clone()], Bool, Cost::Sets { passes })]
    };
    let map = Type::map(A, B);
    vec![
        function(
            "isSorted",
            Cost::ListScan,
            is_sorted,
            comparable!("list_", "_is_sorted_bool", to_bool),
        ),
        function(
            "sum",
            Cost::ListScan,
            sum,
            vec![
                to_element("list_int_sum_int", Int),
                to_element("list_uint_sum_uint", Type::Uint),
                to_element("list_double_sum_double", Type::Double),
                to_element("list_duration_sum_duration", Type::Duration),
            ],
        ),
        function(
            "max",
            Cost::ListScan,
            |effort, args| best(effort, args, "max", Ordering::is_gt),
            comparable!("list_max_", "", to_element),
        ),
        function(
            "min",
            Cost::ListScan,
            |effort, args| best(effort, args, "min", Ordering::is_lt),
            comparable!("list_min_", "", to_element),
        ),
        function(
            "indexOf",
            Cost::ListScan,
            |effort, args| position(effort, args, false),
            vec![
                method("list_a_index_of_int", vec![list.clone(), A], Int, Cost::ListScan),
                method("string_index_of_string", vec![String, String], Int, Cost::ListScan),
                method(
                    "string_index_of_string_int",
                    vec![String, String, Int],
                    Int,
                    Cost::ListScan,
                ),
            ],
        ),
        function(
            "lastIndexOf",
            Cost::ListScan,
            |effort, args| position(effort, args, true),
            vec![
                method("list_a_last_index_of_int", vec![list.clone(), A], Int, Cost::ListScan),
                method("string_last_index_of_string", vec![String, String], Int, Cost::ListScan),
                method(
                    "string_last_index_of_string_int",
                    vec![String, String, Int],
                    Int,
                    Cost::ListScan,
                ),
            ],
        ),
        function(
            "includes",
            Cost::ListScan,
            includes,
            vec![method("list_includes_dyn_dyn", vec![Dyn, Dyn], Bool, Cost::ListScan)],
        ),
        function(
            "slice",
            Cost::Slice,
            slice,
            vec![method("list_slice", vec![list.clone(), Int, Int], list.clone(), Cost::Slice)],
        ),
        function(
            "flatten",
            Cost::Flatten,
            flatten,
            vec![
                method("list_flatten", vec![Type::list(list.clone())], list.clone(), Cost::Flatten),
                method(
                    "list_flatten_int",
                    vec![Type::list(Dyn), Int],
                    Type::list(Dyn),
                    Cost::Flatten,
                ),
            ],
        ),
        function(
            "lists.range",
            Cost::Range,
            range,
            vec![global("lists_range", vec![Int], Type::list(Int), Cost::Range)],
        ),
        function(
            "reverse",
            Cost::Reverse,
            reverse,
            vec![method("list_reverse", vec![list.clone()], list.clone(), Cost::Reverse)],
        ),
        function(
            "distinct",
            Cost::Distinct,
            distinct,
            vec![method("list_distinct", vec![list.clone()], list.clone(), Cost::Distinct)],
        ),
        function(
            "sort",
            Cost::Sort { text: false },
            |effort, args| match args {
                [Value::List(list)] => sort(effort, list, list),
                _ => Err(EvalError::no_such_overload()),
            },
            comparable!("list_", "_sort", |id, of: Type| {
                let cost = Cost::Sort { text: is_text(&of) };
                method(id, vec![Type::list(of.clone())], Type::list(of), cost)
            }),
        ),
        function(
            "@sortByAssociatedKeys",
            Cost::SortBy { text: false },
            |effort, args| match args {
                [Value::List(list), Value::List(keys)] => sort(effort, list, keys),
                _ => Err(EvalError::no_such_overload()),
            },
            comparable!("list_", "_sortByAssociatedKeys", |id, of: Type| {
                let cost = Cost::SortBy { text: is_text(&of) };
                method(id, vec![list.clone(), Type::list(of)], list.clone(), cost)
            }),
        ),
        function(
            "sets.contains",
            Cost::Sets { passes: 1 },
            |effort, args| {
                let (left, right) = two_lists(args)?;
                Ok(Value::Bool(within(effort, right, left)?))
            },
            sets("list_sets_contains_list", 1),
        ),
        function(
            "sets.equivalent",
            Cost::Sets { passes: 2 },
            |effort, args| {
                let (left, right) = two_lists(args)?;
                Ok(Value::Bool(within(effort, right, left)? && within(effort, left, right)?))
            },
            sets("list_sets_equivalent_list", 2),
        ),
        function(
            "sets.intersects",
            Cost::Sets { passes: 1 },
            |effort, args| {
                let (left, right) = two_lists(args)?;
                for item in left.iter() {
                    let item = item?;
                    if within(effort, &List::Owned(Arc::new(vec![item])), right)? {
                        return Ok(Value::Bool(true));
                    }
                }
                Ok(Value::Bool(false))
            },
            sets("list_sets_intersects_list", 1),
        ),
        function(
            "cel.@mapInsert",
            Cost::One,
            map_insert,
            vec![
                global("@mapInsert_map_key_value", vec![map.clone(), A, B], map.clone(), Cost::One),
                global("@mapInsert_map_map", vec![map.clone(), map.clone()], map, Cost::One),
            ],
        ),
    ]
}

fn one_list<'v, 'a>(args: &'v [Value<'a>]) -> std::result::Result<&'v List<'a>, EvalError> {
    match args {
        [Value::List(list), ..] => Ok(list),
        _ => Err(EvalError::no_such_overload()),
    }
}

type Lists<'v, 'a> = (&'v List<'a>, &'v List<'a>);

fn two_lists<'v, 'a>(args: &'v [Value<'a>]) -> std::result::Result<Lists<'v, 'a>, EvalError> {
    match args {
        [Value::List(left), Value::List(right)] => Ok((left, right)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn is_sorted<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let mut before: Option<Value<'_>> = None;
    for item in one_list(args)?.iter() {
        let item = item?;
        effort.spend(1)?;
        if let Some(before) = before
            && before.compare(&item)?.is_gt()
        {
            return Ok(Value::Bool(false));
        }
        before = Some(item);
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let mut total: Option<Value<'a>> = None;
    for item in one_list(args)?.iter() {
        let item = item?;
        total = Some(match total {
            None => item,
            Some(total) => operators::add(effort, &[total, item])?,
        });
    }
    // The checker may know better: see `sum_of`.
    Ok(total.unwrap_or(Value::Int(0)))
}

/// What to call for an overload of `sum`, where nothing adds up to a zero of the right type.
pub(crate) fn sum_of(overload: &str) -> Option<super::Call> {
    fn or<'a>(effort: &mut Effort, args: &[Value<'a>], zero: Value<'a>) -> Result<'a> {
        if one_list(args)?.is_empty() { Ok(zero) } else { sum(effort, args) }
    }
    Some(match overload {
        "list_uint_sum_uint" => |effort, args| or(effort, args, Value::Uint(0)),
        "list_double_sum_double" => |effort, args| or(effort, args, Value::Double(0.0)),
        "list_duration_sum_duration" => |effort, args| or(effort, args, Value::Duration(0)),
        _ => return None,
    })
}

fn best<'a>(
    effort: &mut Effort,
    args: &[Value<'a>],
    name: &str,
    better: fn(Ordering) -> bool,
) -> Result<'a> {
    let mut found: Option<Value<'a>> = None;
    for item in one_list(args)?.iter() {
        let item = item?;
        effort.spend(1)?;
        let replace = match &found {
            None => true,
            Some(found) => better(item.compare(found)?),
        };
        if replace {
            found = Some(item);
        }
    }
    found.ok_or_else(|| EvalError::new(format!("{name} called on empty list")))
}

fn position<'a>(effort: &mut Effort, args: &[Value<'a>], last: bool) -> Result<'a> {
    let [Value::List(list), wanted] = args else {
        return strings::position(effort, args, last);
    };
    let mut found = -1;
    for (n, item) in list.iter().enumerate() {
        if effort.equal(wanted, &item?)? {
            found = n as i64;
            if !last {
                break;
            }
        }
    }
    Ok(Value::Int(found))
}

fn includes<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    match args {
        [Value::List(_), Value::List(_)] => Ok(Value::Bool(effort.equal(&args[0], &args[1])?)),
        [list @ Value::List(_), item] => operators::contains(effort, &[item.clone(), list.clone()]),
        [left, right] => Ok(Value::Bool(effort.equal(left, right)?)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn slice<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let [Value::List(list), start, end] = args else { return Err(EvalError::no_such_overload()) };
    let (start, end) = (int(start)?, int(end)?);
    let why = if start < 0 || end < 0 {
        "negative indexes not supported".to_owned()
    } else if start > end {
        "start index must be less than or equal to end index".to_owned()
    } else if (list.len() as i64) < end {
        format!("list is length {}", list.len())
    } else {
        effort.spend((end - start) as u64)?;
        let items = (start..end).filter_map(|n| list.get(n as usize));
        return Ok(Value::list(items.collect::<std::result::Result<_, _>>()?));
    };
    Err(EvalError::new(format!("cannot slice({start}, {end}), {why}")))
}

fn flatten<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let depth = match args {
        [_] => 1,
        [_, depth] => int(depth)?,
        _ => return Err(EvalError::no_such_overload()),
    };
    if depth < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    let mut out = Vec::new();
    flatten_into(&mut out, one_list(args)?, depth, effort)?;
    Ok(Value::list(out))
}

fn flatten_into<'a>(
    out: &mut Vec<Value<'a>>,
    list: &List<'a>,
    depth: i64,
    effort: &mut Effort,
) -> std::result::Result<(), EvalError> {
    for item in list.iter() {
        effort.spend(1)?;
        match item? {
            Value::List(inner) if depth > 0 => flatten_into(out, &inner, depth - 1, effort)?,
            item => out.push(item),
        }
    }
    Ok(())
}

fn range<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let [end] = args else { return Err(EvalError::no_such_overload()) };
    let end = int(end)?.max(0);
    // As far as one evaluation's cost limit lets it go.
    if end as u64 > crate::cel::PER_CALL_LIMIT {
        return Err(EvalError::CostLimit);
    }
    effort.spend(end as u64)?;
    Ok(Value::list((0..end).map(Value::Int).collect()))
}

fn reverse<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let mut items = one_list(args)?.to_vec()?;
    effort.spend(items.len() as u64)?;
    items.reverse();
    Ok(Value::list(items))
}

fn distinct<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let mut out: Vec<Value<'a>> = Vec::new();
    'items: for item in one_list(args)?.iter() {
        let item = item?;
        for known in &out {
            if effort.equal(known, &item)? {
                continue 'items;
            }
        }
        out.push(item);
    }
    Ok(Value::list(out))
}

/// `list` in the order of its `keys`.
fn sort<'a>(effort: &mut Effort, list: &List<'a>, keys: &List<'a>) -> Result<'a> {
    if list.len() != keys.len() {
        return Err(EvalError::new(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, \
             but got {} and {} elements respectively",
            list.len(),
            keys.len()
        )));
    }
    effort.spend(list.len() as u64 * 8)?;
    let keys = keys.to_vec()?;
    if let Some(first) = keys.first() {
        if first.compare(first).is_err() {
            return Err(EvalError::new("list elements must be comparable"));
        }
        if keys.iter().any(|key| key.type_name() != first.type_name()) {
            return Err(EvalError::new("list elements must have the same type"));
        }
    }
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by(|left, right| keys[*left].compare(&keys[*right]).unwrap_or(Ordering::Equal));
    let items: std::result::Result<_, _> = order.into_iter().filter_map(|n| list.get(n)).collect();
    Ok(Value::list(items?))
}

/// Whether every item of `inner` is in `outer`.
fn within(
    effort: &mut Effort,
    inner: &List<'_>,
    outer: &List<'_>,
) -> std::result::Result<bool, EvalError> {
    'items: for item in inner.iter() {
        let item = item?;
        for known in outer.iter() {
            if effort.equal(&item, &known?)? {
                continue 'items;
            }
        }
        return Ok(false);
    }
    Ok(true)
}

/// The entries of a map, to be added to.
pub(crate) type Entries<'a> = BTreeMap<Key, (Value<'a>, Value<'a>)>;

pub(crate) fn insert<'a>(
    entries: &mut Entries<'a>,
    key: Value<'a>,
    value: Value<'a>,
) -> std::result::Result<(), EvalError> {
    let Some(index) = Key::of(&key) else {
        return Err(EvalError::new(format!("unsupported key type: {}", key.type_name())));
    };
    match entries.entry(index) {
        std::collections::btree_map::Entry::Vacant(free) => {
            free.insert((key, value));
            Ok(())
        }
        std::collections::btree_map::Entry::Occupied(_) => {
            let key = key.to_json().map_or_else(
                |_| String::new(),
                |key| match key {
                    serde_json::Value::String(text) => text,
                    other => other.to_string(),
                },
            );
            Err(EvalError::new(format!("insert failed: key {key} already exists")))
        }
    }
}

fn map_insert<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let [Value::Map(Map::Owned(target)), rest @ ..] = args else {
        return Err(EvalError::no_such_overload());
    };
    let mut target = target.clone();
    if Arc::get_mut(&mut target).is_none() {
        effort.spend(target.len() as u64)?;
    }
    map_insert_into(&mut target, rest)?;
    Ok(Value::Map(Map::Owned(target)))
}

/// Adds an entry, or all entries of a map.
pub(crate) fn map_insert_into<'a>(
    target: &mut Arc<Entries<'a>>,
    what: &[Value<'a>],
) -> std::result::Result<(), EvalError> {
    let entries = Arc::make_mut(target);
    match what {
        [key, value] => insert(entries, key.clone(), value.clone()),
        [Value::Map(more)] => {
            for (key, value) in more.entries() {
                insert(entries, key, value?)?;
            }
            Ok(())
        }
        _ => Err(EvalError::no_such_overload()),
    }
}
