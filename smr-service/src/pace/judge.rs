//! Which replica of a group is a slow one, and what gave it away: a function of what they say.

use super::{Measure, Metric, PaceReport};

/// A replica is slow in a metric if that takes this many times what it normally takes it, *and* what it takes the
/// others: more load makes all of them slower, and machines differ.
pub const FACTOR: u64 = 3;
/// One that was never faster is slow if it takes this many times what it takes the others. Not so links: they have
/// lengths of their own.
pub const ALWAYS_FACTOR: u64 = 10;
/// For how long a replica must have measured before it counts as never faster, in seconds: one that starts catches up.
const ALWAYS_AFTER_S: u32 = 60;

/// A slow replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its number in the group.
    pub replica: u16,
    /// What is slow. What follows from it is left out: see [`Metric::ALL`].
    pub metric: Metric,
    /// For [`Metric::Network`], the replicas to which the way is slow.
    pub peers: Vec<u16>,
    /// What it takes now, in the metric's unit.
    pub present: u64,
    /// What it takes this replica normally, if that is known.
    pub normal: Option<u64>,
    /// What it takes the others.
    pub others: u64,
    /// What else is slow in this replica.
    pub besides: Vec<Metric>,
}

/// What is slow must take longer than for the others by this much, in microseconds: below it is not worth a word,
/// whatever the ratio. Each is several times what a busy machine does now and then.
fn floor_us(metric: Metric) -> u64 {
    match metric {
        Metric::Cpu | Metric::Queue => 20_000,
        Metric::Sync | Metric::Network => 5_000,
        _ => 2_000,
    }
}

/// A level that stands out beside the others.
struct Outlier {
    present: u64,
    normal: Option<u64>,
    others: u64,
}

impl Outlier {
    fn is_slower_than_it_was(&self) -> bool {
        self.normal.is_some_and(|normal| self.present >= normal.saturating_mul(FACTOR))
    }
}

/// The slow replicas among those of one group that have said something, by number. It takes two at least, and three to
/// judge the network.
pub fn judge(reports: &[(u16, &PaceReport)]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = reports.iter().filter_map(|(replica, _)| judge_one(*replica, reports)).collect();
    // A way that is slow while both its ends are well with all others is no replica's.
    for (at, (one, _)) in reports.iter().enumerate() {
        for (other, _) in &reports[at + 1..] {
            let is_explained = findings.iter().any(|found| {
                let is_end = found.replica == *one || found.replica == *other;
                is_end && (found.metric == Metric::Cpu || found.metric == Metric::Network)
            });
            let itself = |from, to| (from, to) == (*one, *other) || (to, from) == (*one, *other);
            let slow = way(reports, *one, *other).and_then(|way| stands_out(reports, way, itself));
            if let Some(Outlier { present, normal, others }) = slow.filter(|_| !is_explained) {
                let (replica, peers) = (*one, vec![*other]);
                let besides = Vec::new();
                findings.push(Finding { replica, metric: Metric::Network, peers, present, normal, others, besides });
            }
        }
    }
    findings.sort_by_key(|found| (found.replica, found.metric));
    findings
}

fn judge_one(replica: u16, reports: &[(u16, &PaceReport)]) -> Option<Finding> {
    let (_, own) = reports.iter().find(|(name, _)| *name == replica)?;
    let mut slow: Vec<(Metric, Vec<u16>, Outlier)> = Vec::new();
    for metric in Metric::ALL.into_iter().filter(|metric| metric.is_duration()) {
        // Requests wait at leaders alone: there is no one to compare one with.
        if metric == Metric::Queue && own.leads {
            continue;
        }
        if metric == Metric::Network {
            slow.extend(slow_ways(replica, reports).map(|(peers, outlier)| (metric, peers, outlier)));
        } else {
            slow.extend(slow_metric(metric, replica, own, reports).map(|outlier| (metric, Vec::new(), outlier)));
        }
    }
    let mut slow = slow.into_iter();
    let (metric, peers, Outlier { present, normal, others }) = slow.next()?;
    let besides = slow.map(|(metric, ..)| metric).collect();
    Some(Finding { replica, metric, peers, present, normal, others, besides })
}

fn slow_metric(metric: Metric, replica: u16, own: &PaceReport, reports: &[(u16, &PaceReport)]) -> Option<Outlier> {
    let measure = own.of(metric)?;
    let others = reports.iter().filter(|(name, other)| *name != replica && (metric != Metric::Queue || !other.leads));
    let others = upper_median(others.filter_map(|(_, other)| Some(other.of(metric)?.present?.average)).collect())?;
    let outlier = outlier(measure, others)?;
    let never_was_faster = own.watched_s >= ALWAYS_AFTER_S && outlier.present >= others.saturating_mul(ALWAYS_FACTOR);
    (outlier.is_slower_than_it_was() || never_was_faster).then_some(outlier)
}

/// The ways from a replica to others that are slow, if that are most of those that can be judged: with all others, the
/// replica is what they have in common.
fn slow_ways(replica: u16, reports: &[(u16, &PaceReport)]) -> Option<(Vec<u16>, Outlier)> {
    let others = reports.iter().map(|(name, _)| *name).filter(|name| *name != replica);
    let ways: Vec<(u16, Measure)> = others.filter_map(|other| Some((other, way(reports, replica, other)?))).collect();
    let own = |from, to| from == replica || to == replica;
    let judged = |(other, way): &(u16, Measure)| Some((*other, stands_out(reports, *way, own)?));
    let mut slow: Vec<(u16, Outlier)> = ways.iter().filter_map(judged).collect();
    if slow.len() < 2 || 2 * slow.len() <= ways.len() {
        return None;
    }
    let peers = slow.iter().map(|(other, _)| *other).collect();
    slow.sort_by_key(|(_, outlier)| outlier.present);
    let (_, slowest) = slow.pop()?;
    Some((peers, slowest))
}

/// What is known of the way between two replicas: what the one says of it that finds it slower.
fn way(reports: &[(u16, &PaceReport)], one: u16, other: u16) -> Option<Measure> {
    let said = |by: u16, of: u16| reports.iter().find(|(name, _)| *name == by)?.1.network_to(of).copied();
    let both = [said(one, other), said(other, one)];
    let known = both.into_iter().flatten().filter(|way| way.present.is_some() && way.normal.is_some());
    known.max_by_key(|way| way.present.map(|level| level.average))
}

/// Whether a way is slow beside the others of the group, without those that are left out.
fn stands_out(reports: &[(u16, &PaceReport)], way: Measure, left_out: impl Fn(u16, u16) -> bool) -> Option<Outlier> {
    let elsewhere = reports.iter().flat_map(|(from, report)| {
        let ways = report.measures.iter().filter(|measure| measure.metric == Metric::Network);
        let others = ways.filter(|measure| measure.peer.is_some_and(|to| !left_out(*from, to)));
        others.filter_map(|measure| Some(measure.present?.average))
    });
    let outlier = outlier(&way, upper_median(elsewhere.collect())?)?;
    outlier.is_slower_than_it_was().then_some(outlier)
}

fn outlier(measure: &Measure, others: u64) -> Option<Outlier> {
    let present = measure.present?.average;
    let is_worth_a_word = present >= others.saturating_add(floor_us(measure.metric));
    let stands_out = is_worth_a_word && present >= others.saturating_mul(FACTOR);
    stands_out.then_some(Outlier { present, normal: measure.normal.map(|level| level.average), others })
}

/// The one in the middle; of an even number the larger one, so that one replica of three is compared with the slower of
/// the other two.
fn upper_median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    const DURATIONS: [Metric; 4] = [Metric::Cpu, Metric::Sync, Metric::Apply, Metric::Queue];

    fn level(average: u64) -> Option<Level> {
        Some(Level { average, min: average / 2, max: 3 * average })
    }

    /// What a sound replica of a group of `size` says, the first of which leads.
    fn sound(replica: u16, size: u16) -> PaceReport {
        let normal = |metric| match metric {
            Metric::Cpu => 900,
            Metric::Sync => 2_000,
            Metric::Apply => 8,
            Metric::Network => 400,
            _ => 150,
        };
        let own = DURATIONS.into_iter().map(|metric| (metric, None));
        let ways = (0..size).filter(|peer| *peer != replica).map(|peer| (Metric::Network, Some(peer)));
        let measures = own.chain(ways).map(|(metric, peer)| {
            let usual = level(normal(metric));
            Measure { metric, peer, normal: usual, present: usual }
        });
        PaceReport { leads: replica == 0, stands_back: false, watched_s: 600, measures: measures.collect() }
    }

    fn group(size: u16) -> Vec<PaceReport> {
        (0..size).map(|replica| sound(replica, size)).collect()
    }

    fn judged(group: &[PaceReport]) -> Vec<Finding> {
        judge(&(0..).zip(group).collect::<Vec<_>>())
    }

    /// Each finding as replica, metric and peers.
    fn named(group: &[PaceReport]) -> Vec<(u16, Metric, Vec<u16>)> {
        judged(group).into_iter().map(|found| (found.replica, found.metric, found.peers)).collect()
    }

    fn set(report: &mut PaceReport, metric: Metric, peer: Option<u16>, present: u64) {
        let found = report.measures.iter_mut().find(|one| one.metric == metric && one.peer == peer);
        found.unwrap().present = level(present);
    }

    #[test]
    fn sound_group_has_no_finding_whoever_leads_and_however_many() {
        for size in [1, 2, 3, 5, 9] {
            assert_eq!(judged(&group(size)), [], "{size}");
        }
        assert_eq!(judge(&[]), []);
    }

    #[test]
    fn each_metric_of_a_follower_and_of_the_leader_is_found_with_its_normal_and_the_others() {
        for metric in DURATIONS {
            for replica in [0, 2] {
                let mut group = group(3);
                set(&mut group[replica], metric, None, 60_000);
                let expected: &[(u16, Metric, Vec<u16>)] = match (metric, replica) {
                    // With whom is a leader's queue to be compared?
                    (Metric::Queue, 0) => &[],
                    _ => &[(replica as u16, metric, vec![])],
                };
                assert_eq!(named(&group), expected, "{metric} of {replica}");
            }
        }
        let mut group = group(3);
        set(&mut group[1], Metric::Sync, None, 100_000);
        let found = &judged(&group)[0];
        assert_eq!((found.present, found.normal, found.others), (100_000, Some(2_000), 2_000));
    }

    #[test]
    fn more_load_makes_all_slower_and_no_one_slow() {
        let mut group = group(3);
        for (report, share) in group.iter_mut().zip([100, 80, 130]) {
            for metric in DURATIONS {
                let usual = report.of(metric).unwrap().normal.unwrap().average;
                set(report, metric, None, usual * share);
            }
            for peer in 0..3 {
                if report.network_to(peer).is_some() {
                    set(report, Metric::Network, Some(peer), 400 * share);
                }
            }
        }
        assert_eq!(judged(&group), []);
    }

    #[test]
    fn noise_that_is_small_or_short_of_the_factor_is_no_finding() {
        for (metric, present) in
            [(Metric::Cpu, 15_000), (Metric::Sync, 6_900), (Metric::Apply, 1_900), (Metric::Queue, 19_000)]
        {
            let mut group = group(3);
            set(&mut group[1], metric, None, present);
            assert_eq!(judged(&group), [], "{metric}");
        }
        let mut group = group(3);
        for (report, sync) in group.iter_mut().zip([30_000, 80_000, 40_000]) {
            set(report, Metric::Sync, None, sync);
        }
        assert_eq!(judged(&group), [], "twice as slow as the next one is no fault");
    }

    #[test]
    fn one_that_starts_has_no_normal_and_is_not_judged() {
        let mut group = group(3);
        group[1].watched_s = 8;
        group[1].measures.iter_mut().for_each(|measure| measure.normal = None);
        set(&mut group[1], Metric::Sync, None, 300_000);
        assert_eq!(judged(&group), [], "it catches up");
        group[1].watched_s = 90;
        assert_eq!(named(&group), [(1, Metric::Sync, vec![])], "by then it is just slow");
    }

    #[test]
    fn one_that_was_always_slower_is_found_only_if_it_is_much_slower() {
        for (sync, is_slow) in [(15_000, false), (30_000, true)] {
            let mut group = group(3);
            set(&mut group[2], Metric::Sync, None, sync);
            group[2].measures.iter_mut().for_each(|measure| measure.normal = measure.present);
            assert_eq!(judged(&group).len(), usize::from(is_slow), "{sync}");
        }
    }

    #[test]
    fn replica_whose_ways_are_all_slow_is_named_and_not_those_at_the_other_ends() {
        for size in [3, 5] {
            let mut group = group(size);
            let others: Vec<u16> = (0..size).filter(|other| *other != 1).collect();
            for other in &others {
                set(&mut group[1], Metric::Network, Some(*other), 41_000);
                set(&mut group[usize::from(*other)], Metric::Network, Some(1), 40_000);
            }
            assert_eq!(named(&group), [(1, Metric::Network, others)]);
            assert_eq!(judged(&group)[0].others, 400);
        }
    }

    #[test]
    fn way_that_is_slow_alone_is_named_by_both_its_ends_once() {
        let mut group = group(3);
        set(&mut group[1], Metric::Network, Some(2), 40_000);
        assert_eq!(named(&group), [(1, Metric::Network, vec![2])]);
    }

    #[test]
    fn far_replica_is_not_slow_for_that() {
        let mut group = group(3);
        for (from, to) in [(0, 2), (1, 2), (2, 0), (2, 1)] {
            set(&mut group[from], Metric::Network, Some(to), 80_000);
        }
        for measure in group.iter_mut().flat_map(|report| &mut report.measures) {
            measure.normal = measure.present;
        }
        assert_eq!(judged(&group), []);
    }

    #[test]
    fn without_a_processor_all_is_slow_and_the_processor_is_named() {
        let mut group = group(3);
        for metric in DURATIONS {
            set(&mut group[2], metric, None, 90_000);
        }
        for other in [0, 1] {
            set(&mut group[2], Metric::Network, Some(other), 90_000);
            set(&mut group[usize::from(other)], Metric::Network, Some(2), 90_000);
        }
        let found = judged(&group);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].replica, found[0].metric), (2, Metric::Cpu));
        assert_eq!(found[0].besides, [Metric::Sync, Metric::Apply, Metric::Network, Metric::Queue]);
    }

    #[test]
    fn two_of_five_may_be_slow_and_of_two_the_slower_one() {
        let mut five = group(5);
        for replica in [1, 3] {
            set(&mut five[replica], Metric::Sync, None, 90_000);
        }
        assert_eq!(named(&five), [(1, Metric::Sync, vec![]), (3, Metric::Sync, vec![])]);
        let mut two = group(2);
        set(&mut two[0], Metric::Sync, None, 90_000);
        set(&mut two[0], Metric::Network, Some(1), 90_000);
        assert_eq!(named(&two), [(0, Metric::Sync, vec![])], "there is no other way to compare that one with");
    }

    #[test]
    fn senseless_numbers_are_judged_like_others() {
        let mut group = group(3);
        for report in &mut group {
            report.measures.iter_mut().for_each(|measure| measure.present = level(u64::MAX / 3));
        }
        assert_eq!(judged(&group), []);
    }

    #[test]
    fn idle_group_has_nothing_to_judge() {
        let mut group = group(3);
        group[1].measures.iter_mut().for_each(|measure| measure.present = None);
        assert_eq!(judged(&group), []);
    }
}
