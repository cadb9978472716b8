//! A disk for tests: it loses power at any operation, tears writes at sectors, fills up, fails to
//! flush, and writes less than it was asked to.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{Disk, DiskFile};

const SECTOR: usize = 512;

/// Handles to one disk.
#[derive(Clone, Debug, Default)]
pub(in crate::embedded) struct Sim(Arc<Mutex<World>>);

#[derive(Clone, Debug, Default)]
struct World {
    files: Vec<Contents>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// What the names were after each change that is not durable yet.
    name_changes: Vec<BTreeMap<String, usize>>,
    dice: u64,
    /// So many operations go on until the power fails.
    fuse: Option<u64>,
    /// So many flushes of files succeed until one fails.
    flushes: Option<u64>,
    /// So many bytes the files may have together.
    capacity: Option<usize>,
    short_writes: bool,
}

/// A file: what programs see, what the disk has, and what is on the way.
#[derive(Clone, Debug, Default)]
struct Contents {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// For each dirty sector, all its states since the last flush.
    dirty: BTreeMap<usize, Vec<Vec<u8>>>,
}

impl World {
    fn roll(&mut self, sides: u64) -> u64 {
        // A linear congruential generator, Knuth's constants.
        self.dice = self
            .dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % sides
    }

    fn power(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Frees the files that no name leads to, now or after a loss of power.
    fn forget_removed(&mut self) {
        let views = self.name_changes.iter().chain([&self.names, &self.durable_names]);
        let kept: BTreeSet<usize> = views.flat_map(|names| names.values().copied()).collect();
        for (number, file) in self.files.iter_mut().enumerate() {
            if !kept.contains(&number) {
                *file = Contents::default();
            }
        }
    }

    fn rename(&mut self, change: impl FnOnce(&mut BTreeMap<String, usize>)) {
        change(&mut self.names);
        self.name_changes.push(self.names.clone());
    }
}

impl Contents {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.seen.len() < end {
            self.seen.resize(end, 0);
        }
        self.seen[offset..end].copy_from_slice(bytes);
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let from = sector * SECTOR;
            let state = self.seen[from..self.seen.len().min(from + SECTOR)].to_vec();
            self.dirty.entry(sector).or_default().push(state);
        }
    }

    fn persist(&mut self, sector: usize, state: &[u8]) {
        let from = sector * SECTOR;
        if self.durable.len() < from + state.len() {
            self.durable.resize(from + state.len(), 0);
        }
        self.durable[from..from + state.len()].copy_from_slice(state);
    }
}

impl Sim {
    pub(in crate::embedded) fn new(seed: u64) -> Self {
        let sim = Sim::default();
        sim.0.lock().dice = seed;
        sim
    }

    /// The power fails after so many operations, somewhere in the middle of one.
    pub(in crate::embedded) fn fail_power_after(&self, operations: u64) {
        self.0.lock().fuse = Some(operations);
    }

    /// So many flushes succeed, then one fails.
    pub(in crate::embedded) fn fail_flush_after(&self, flushes: u64) {
        self.0.lock().flushes = Some(flushes);
    }

    pub(in crate::embedded) fn limit(&self, capacity: Option<usize>) {
        self.0.lock().capacity = capacity;
    }

    pub(in crate::embedded) fn write_short(&self) {
        self.0.lock().short_writes = true;
    }

    pub(in crate::embedded) fn used(&self) -> usize {
        let world = self.0.lock();
        world.names.values().map(|&file| world.files[file].seen.len()).sum()
    }

    /// The disk as it is after the power came back: of what was not flushed, anything may be there.
    pub(in crate::embedded) fn after_power_loss(&self) -> Sim {
        let mut world = self.0.lock().clone();
        // Sometimes the cache was lucky or unlucky as a whole.
        let luck = world.roll(4);
        let names = match luck {
            0 => 0,
            1 => world.name_changes.len(),
            _ => world.roll(world.name_changes.len() as u64 + 1) as usize,
        };
        if names > 0 {
            world.durable_names = world.name_changes[names - 1].clone();
        }
        for file in 0..world.files.len() {
            for (sector, states) in std::mem::take(&mut world.files[file].dirty) {
                let state = match luck {
                    0 => 0,
                    1 => states.len(),
                    _ => world.roll(states.len() as u64 + 1) as usize,
                };
                if state > 0 {
                    world.files[file].persist(sector, &states[state - 1]);
                }
            }
            world.files[file].seen = world.files[file].durable.clone();
        }
        world.names = world.durable_names.clone();
        world.name_changes.clear();
        world.forget_removed();
        world.fuse = None;
        world.flushes = None;
        Sim(Arc::new(Mutex::new(world)))
    }

    /// A copy on which something else can happen.
    pub(in crate::embedded) fn copy(&self) -> Sim {
        let mut world = self.0.lock();
        world.forget_removed();
        Sim(Arc::new(Mutex::new(world.clone())))
    }

    pub(in crate::embedded) fn contents(&self, name: &str) -> Vec<u8> {
        let world = self.0.lock();
        world.files[world.names[name]].seen.clone()
    }

    pub(in crate::embedded) fn replace(&self, name: &str, contents: Vec<u8>) {
        let mut world = self.0.lock();
        let file = world.files.len();
        world.files.push(Contents {
            seen: contents.clone(),
            durable: contents,
            dirty: BTreeMap::new(),
        });
        world.names.insert(name.to_owned(), file);
        world.durable_names.insert(name.to_owned(), file);
    }
}

impl Disk for Sim {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.0.lock().names.get(name).copied();
        let file = file.ok_or(ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { sim: self.clone(), file }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.0.lock();
        world.power()?;
        let file = world.files.len();
        world.files.push(Contents::default());
        world.rename(|names| {
            names.insert(name.to_owned(), file);
        });
        drop(world);
        Ok(Arc::new(SimFile { sim: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.0.lock();
        world.power()?;
        let file = world.names.get(from).copied().ok_or(ErrorKind::NotFound)?;
        world.rename(|names| {
            names.remove(from);
            names.insert(to.to_owned(), file);
        });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.0.lock();
        world.power()?;
        if !world.names.contains_key(name) {
            return Err(ErrorKind::NotFound.into());
        }
        world.rename(|names| {
            names.remove(name);
        });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.0.lock();
        world.power()?;
        world.durable_names = world.names.clone();
        world.name_changes.clear();
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    sim: Sim,
    file: usize,
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.sim.0.lock().files[self.file].seen.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let world = self.sim.0.lock();
        let seen = world.files[self.file].seen.get(offset as usize..).unwrap_or_default();
        let some = seen.len().min(buffer.len());
        buffer[..some].copy_from_slice(&seen[..some]);
        Ok(some)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut world = self.sim.0.lock();
        let offset = offset as usize;
        let mut some = bytes.len();
        if world.short_writes {
            some = 1 + world.roll(some as u64) as usize;
        }
        let power = world.power();
        if power.is_err() {
            // The write that the power failed in was begun.
            some = world.roll(some as u64 + 1) as usize;
        }
        let growth = (offset + some).saturating_sub(world.files[self.file].seen.len());
        let used: usize = world.names.values().map(|&file| world.files[file].seen.len()).sum();
        if world.capacity.is_some_and(|capacity| used + growth > capacity) {
            return Err(ErrorKind::StorageFull.into());
        }
        world.files[self.file].write(&bytes[..some], offset);
        power.map(|()| some)
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.sim.0.lock();
        world.power()?;
        let fails = match &mut world.flushes {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        for (sector, states) in std::mem::take(&mut world.files[self.file].dirty) {
            // As Linux does: after a failed flush the pages count as clean, and programs see what
            // the disk may never have got.
            if (!fails || world.roll(2) == 0)
                && let Some(state) = states.last()
            {
                world.files[self.file].persist(sector, state);
            }
        }
        if fails {
            world.flushes = None;
            return Err(io::Error::other("input/output error"));
        }
        Ok(())
    }
}
