use std::{collections::BTreeSet, sync::Arc};

use crate::{framework::Plugin, plugins, pod_info::DEFAULT_SCHEDULER_NAME};

/// An extension point, for [`ProfileBuilder::at`] and [`ProfileBuilder::without_at`]. The order is
/// that in which a Pod meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // Each is named after the trait that describes it.
pub enum Point {
    PreEnqueue,
    QueueSort,
    PreFilter,
    Filter,
    PostFilter,
    PreScore,
    Score,
    Reserve,
    Permit,
    PreBind,
    Bind,
    PostBind,
}

impl Point {
    fn has(self, plugin: &dyn Plugin) -> bool {
        match self {
            Point::PreEnqueue => plugin.as_pre_enqueue().is_some(),
            Point::QueueSort => plugin.as_queue_sort().is_some(),
            Point::PreFilter => plugin.as_pre_filter().is_some(),
            Point::Filter => plugin.as_filter().is_some(),
            Point::PostFilter => plugin.as_post_filter().is_some(),
            Point::PreScore => plugin.as_pre_score().is_some(),
            Point::Score => plugin.as_score().is_some(),
            Point::Reserve => plugin.as_reserve().is_some(),
            Point::Permit => plugin.as_permit().is_some(),
            Point::PreBind => plugin.as_pre_bind().is_some(),
            Point::Bind => plugin.as_bind().is_some(),
            Point::PostBind => plugin.as_post_bind().is_some(),
        }
    }
}

/// A plugin at Score, with its weight.
#[derive(Clone, Debug)]
pub(crate) struct Weighted {
    pub(crate) plugin: Arc<dyn Plugin>,
    pub(crate) weight: i64,
}

/// How the Pods of one scheduler name are scheduled: for every extension point an ordered list of
/// plugins.
#[derive(Clone, Debug)]
pub struct Profile {
    pub(crate) scheduler_name: String,
    /// Of the nodes, how many must be possible before the search ends; 0 is upstream's rule.
    pub(crate) percentage_of_nodes_to_score: u32,
    pub(crate) pre_enqueue: Vec<Arc<dyn Plugin>>,
    pub(crate) queue_sort: Arc<dyn Plugin>,
    pub(crate) pre_filter: Vec<Arc<dyn Plugin>>,
    pub(crate) filter: Vec<Arc<dyn Plugin>>,
    pub(crate) post_filter: Vec<Arc<dyn Plugin>>,
    pub(crate) pre_score: Vec<Arc<dyn Plugin>>,
    pub(crate) score: Vec<Weighted>,
    pub(crate) reserve: Vec<Arc<dyn Plugin>>,
    pub(crate) permit: Vec<Arc<dyn Plugin>>,
    pub(crate) pre_bind: Vec<Arc<dyn Plugin>>,
    pub(crate) bind: Vec<Arc<dyn Plugin>>,
    pub(crate) post_bind: Vec<Arc<dyn Plugin>>,
    /// Each plugin once.
    pub(crate) all: Vec<Arc<dyn Plugin>>,
}

impl Default for Profile {
    /// The default plugins for the scheduler name `default-scheduler`.
    fn default() -> Self {
        // The default plugins make a valid profile; a test says so.
        Self::builder().build().unwrap_or_else(|error| unreachable!("{error}"))
    }
}

impl Profile {
    /// A profile that starts from the default plugins.
    pub fn builder() -> ProfileBuilder {
        ProfileBuilder { multi: plugins::defaults(), ..Self::empty() }
    }

    /// A profile that starts from nothing. It needs at least a queue sort and a bind plugin.
    pub fn empty() -> ProfileBuilder {
        ProfileBuilder {
            scheduler_name: DEFAULT_SCHEDULER_NAME.to_owned(),
            percentage_of_nodes_to_score: 0,
            multi: Vec::new(),
            at: Vec::new(),
            without_at: BTreeSet::new(),
        }
    }

    /// The scheduler name whose Pods this profile is for.
    pub fn scheduler_name(&self) -> &str {
        &self.scheduler_name
    }

    /// The names of the plugins at an extension point, in order, with their weights.
    pub fn plugins_at(&self, point: Point) -> Vec<(&'static str, i64)> {
        let list = match point {
            Point::PreEnqueue => &self.pre_enqueue,
            Point::QueueSort => std::slice::from_ref(&self.queue_sort),
            Point::PreFilter => &self.pre_filter,
            Point::Filter => &self.filter,
            Point::PostFilter => &self.post_filter,
            Point::PreScore => &self.pre_score,
            Point::Score => {
                return self.score.iter().map(|it| (it.plugin.name(), it.weight)).collect();
            }
            Point::Reserve => &self.reserve,
            Point::Permit => &self.permit,
            Point::PreBind => &self.pre_bind,
            Point::Bind => &self.bind,
            Point::PostBind => &self.post_bind,
        };
        list.iter().map(|plugin| (plugin.name(), 0)).collect()
    }

    /// The plugin of this name.
    pub(crate) fn plugin(&self, name: &str) -> Option<&Arc<dyn Plugin>> {
        self.all.iter().find(|plugin| plugin.name() == name)
    }
}

/// What is wrong with a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// There must be exactly one queue sort plugin.
    #[error("profile {profile:?} must have exactly one queue sort plugin, found {found}")]
    QueueSort {
        /// The scheduler name.
        profile: String,
        /// How many there are.
        found: usize,
    },
    /// There must be a bind plugin.
    #[error("profile {profile:?} needs at least one bind plugin")]
    NoBind {
        /// The scheduler name.
        profile: String,
    },
    /// A plugin is asked for an extension point that it does not implement.
    #[error("plugin {plugin:?} does not take part in {point:?}")]
    NotAt {
        /// The plugin.
        plugin: String,
        /// The extension point.
        point: Point,
    },
}

/// Puts a [`Profile`] together.
#[derive(Clone, Debug)]
pub struct ProfileBuilder {
    scheduler_name: String,
    percentage_of_nodes_to_score: u32,
    /// Plugins for every extension point that they implement.
    multi: Vec<Weighted>,
    /// Plugins for single extension points.
    at: Vec<(Point, Weighted)>,
    /// Where a plugin of `multi` is left out; `*` is all of them.
    without_at: BTreeSet<(Point, String)>,
}

impl ProfileBuilder {
    /// For Pods of this scheduler name; `default-scheduler` by default.
    #[must_use]
    pub fn scheduler_name(mut self, name: &str) -> Self {
        self.scheduler_name = name.to_owned();
        self
    }

    /// Ends the search for possible nodes once this many percent of all are; 0, the default, is
    /// upstream's rule (see [`Scheduler`](crate::Scheduler)).
    #[must_use]
    pub fn percentage_of_nodes_to_score(mut self, percentage: u32) -> Self {
        self.percentage_of_nodes_to_score = percentage.min(100);
        self
    }

    /// With one more plugin, at every extension point that it implements, after those before it.
    /// It takes the place of an earlier one of its name. A weight of 0 is 1.
    #[must_use]
    pub fn with(mut self, plugin: Arc<dyn Plugin>, weight: i64) -> Self {
        let plugin = Weighted { plugin, weight: weight.max(1) };
        match self.multi.iter_mut().find(|it| it.plugin.name() == plugin.plugin.name()) {
            Some(same) => *same = plugin,
            None => self.multi.push(plugin),
        }
        self
    }

    /// With another weight for a plugin at Score.
    #[must_use]
    pub fn weight(mut self, name: &str, weight: i64) -> Self {
        for it in self.multi.iter_mut().filter(|it| it.plugin.name() == name) {
            it.weight = weight.max(1);
        }
        self
    }

    /// Without a plugin; `*` is all so far.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.multi.retain(|it| name != "*" && it.plugin.name() != name);
        self
    }

    /// With a plugin at one extension point.
    #[must_use]
    pub fn at(mut self, point: Point, plugin: Arc<dyn Plugin>, weight: i64) -> Self {
        self.at.push((point, Weighted { plugin, weight: weight.max(1) }));
        self
    }

    /// Without a plugin at one extension point; `*` is all but those of [`at`](Self::at).
    #[must_use]
    pub fn without_at(mut self, point: Point, name: &str) -> Self {
        self.without_at.insert((point, name.to_owned()));
        self
    }

    /// The profile, if it is complete.
    pub fn build(self) -> Result<Profile, ProfileError> {
        if let Some((point, it)) = self.at.iter().find(|(point, it)| !point.has(&*it.plugin)) {
            let plugin = it.plugin.name().to_owned();
            return Err(ProfileError::NotAt { plugin, point: *point });
        }
        let list = |point| self.list(point);
        let plain =
            |point| list(point).into_iter().map(|it| it.plugin).collect::<Vec<Arc<dyn Plugin>>>();
        let profile = self.scheduler_name.clone();
        let mut queue_sort = plain(Point::QueueSort);
        let queue_sort = match (queue_sort.pop(), queue_sort.len()) {
            (Some(plugin), 0) => plugin,
            (last, rest) => {
                let found = rest + usize::from(last.is_some());
                return Err(ProfileError::QueueSort { profile, found });
            }
        };
        let bind = plain(Point::Bind);
        if bind.is_empty() {
            return Err(ProfileError::NoBind { profile });
        }
        let mut all: Vec<Arc<dyn Plugin>> = Vec::new();
        for it in self.multi.iter().chain(self.at.iter().map(|(_, it)| it)) {
            if !all.iter().any(|known| known.name() == it.plugin.name()) {
                all.push(it.plugin.clone());
            }
        }
        Ok(Profile {
            pre_enqueue: plain(Point::PreEnqueue),
            queue_sort,
            pre_filter: plain(Point::PreFilter),
            filter: plain(Point::Filter),
            post_filter: plain(Point::PostFilter),
            pre_score: plain(Point::PreScore),
            score: list(Point::Score),
            reserve: plain(Point::Reserve),
            permit: plain(Point::Permit),
            pre_bind: plain(Point::PreBind),
            bind,
            post_bind: plain(Point::PostBind),
            percentage_of_nodes_to_score: self.percentage_of_nodes_to_score,
            scheduler_name: self.scheduler_name,
            all,
        })
    }

    /// The plugins at one point: first those named for it that stand in for one of the general
    /// ones, then the general ones, then the rest of those named for it. It is upstream's order.
    fn list(&self, point: Point) -> Vec<Weighted> {
        let is_off = |name: &str| {
            self.without_at.contains(&(point, name.to_owned()))
                || self.without_at.contains(&(point, "*".to_owned()))
        };
        let general: Vec<_> = self
            .multi
            .iter()
            .filter(|it| point.has(&*it.plugin) && !is_off(it.plugin.name()))
            .collect();
        let named: Vec<_> =
            self.at.iter().filter(|(at, _)| *at == point).map(|(_, it)| it).collect();
        let in_general =
            |it: &&&Weighted| general.iter().any(|g| g.plugin.name() == it.plugin.name());
        let in_named = |it: &&&Weighted| named.iter().any(|n| n.plugin.name() == it.plugin.name());

        let stand_ins = named.iter().filter(|it| in_general(it));
        let rest = named.iter().filter(|it| !in_general(it));
        let others = general.iter().filter(|it| !in_named(it));
        stand_ins.chain(others).chain(rest).map(|it| (**it).clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(profile: &Profile, point: Point) -> Vec<&'static str> {
        profile.plugins_at(point).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn the_default_profile_has_upstreams_order_and_weights() {
        let profile = Profile::default();
        let filters = names(&profile, Point::Filter);
        let expected = [
            "NodeUnschedulable",
            "NodeName",
            "TaintToleration",
            "NodeAffinity",
            "NodePorts",
            "NodeResourcesFit",
        ];
        assert_eq!(filters[..expected.len()], expected);
        let scores = profile.plugins_at(Point::Score);
        assert!(scores.contains(&("TaintToleration", 3)), "{scores:?}");
        assert!(scores.contains(&("NodeAffinity", 2)), "{scores:?}");
        assert_eq!(names(&profile, Point::Bind), ["DefaultBinder"]);
        assert_eq!(names(&profile, Point::QueueSort), ["PrioritySort"]);
    }

    #[test]
    fn plugins_can_be_left_out_everywhere_or_at_one_point() {
        let profile = Profile::builder()
            .without("NodePorts")
            .without_at(Point::Score, "TaintToleration")
            .build()
            .unwrap();
        assert!(!names(&profile, Point::Filter).contains(&"NodePorts"));
        assert!(names(&profile, Point::Filter).contains(&"TaintToleration"));
        assert!(!names(&profile, Point::Score).contains(&"TaintToleration"));
    }

    #[test]
    fn an_incomplete_profile_is_refused() {
        let error = Profile::empty().build().unwrap_err();
        assert!(matches!(error, ProfileError::QueueSort { found: 0, .. }), "{error}");
        let error = Profile::builder().without("DefaultBinder").build().unwrap_err();
        assert!(matches!(error, ProfileError::NoBind { .. }), "{error}");
    }
}
