//! What a journal says of itself: two copies, written one after the other, so that one is always whole.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::layout::{Geometry, HEADER_WORDS, WORD_BYTES};
use crate::medium::Medium;

const MAGIC: [u8; 8] = *b"EPLJRNL1";
const VERSION: u32 = 1;
const FIXED: usize = 32;

/// How far a promise reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// It survives every death of a process, and not that of the machine.
    #[default]
    Process,
    /// It survives a power cut: registration returns after the device has it.
    Power,
}

/// What a journal says of itself. Written once, before the first record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Unique: with a record's id it is a key that never comes twice.
    pub uuid: String,
    /// What every check begins with.
    salt: u64,
    slots_log2: u32,
    segments_max: u32,
    /// Whether its writers map it. All do, or none: words that one changes through a mapping and another
    /// under a lock would be lost.
    pub mapped: bool,
    /// The longest promise that its records may be given.
    pub tier: Tier,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// The boot of the machine in which its owner lives.
    pub boot_id: String,
    /// The PID namespace in which its pids mean something: its inode.
    pub pid_namespace: u64,
    /// The user who may pay it.
    pub uid: u32,
    /// What it is called in lists.
    pub name: String,
    /// The program that knows its actions.
    pub program: Option<PathBuf>,
    /// The command that it was made for, cut at 1 KiB.
    #[serde(default)]
    pub command: Vec<String>,
}

/// What is to be said of a new journal.
#[derive(Clone, Debug, Default)]
pub struct NewMeta {
    /// See [`Meta`], as for the others.
    pub tier: Tier,
    /// In milliseconds since 1970.
    pub created_ms: u64,
    /// The boot of the machine.
    pub boot_id: String,
    /// The inode of the PID namespace.
    pub pid_namespace: u64,
    /// The user.
    pub uid: u32,
    /// The name in lists.
    pub name: String,
    /// The program that knows the actions.
    pub program: Option<PathBuf>,
    /// The command; what is beyond 1 KiB is left out.
    pub command: Vec<String>,
}

impl Meta {
    pub(crate) fn new(new: NewMeta, geometry: Geometry, mapped: bool) -> io::Result<Meta> {
        let mut random = [0; 24];
        crate::os::random(&mut random)?;
        let (salt, uuid) = random.split_at(8);
        let mut bytes = 0;
        let fits = |word: &String| {
            bytes += word.len() + 3;
            bytes <= 1024
        };
        Ok(Meta {
            uuid: uuid.iter().map(|byte| format!("{byte:02x}")).collect(),
            salt: salt.iter().fold(0, |salt, byte| salt << 8 | u64::from(*byte)),
            slots_log2: geometry.slots_log2,
            segments_max: geometry.segments_max,
            mapped,
            tier: new.tier,
            created_ms: new.created_ms,
            boot_id: new.boot_id,
            pid_namespace: new.pid_namespace,
            uid: new.uid,
            name: new.name.chars().take(200).collect(),
            program: new.program,
            command: new.command.into_iter().take_while(fits).collect(),
        })
    }

    pub(crate) fn salt(&self) -> u64 {
        self.salt
    }

    pub(crate) fn geometry(&self) -> Geometry {
        Geometry { slots_log2: self.slots_log2, segments_max: self.segments_max }
    }

    pub(crate) fn write(&self, medium: &impl Medium) -> io::Result<()> {
        let json = serde_json::to_vec(self)?;
        if FIXED + json.len() > HEADER_WORDS * WORD_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the header does not fit: a long path?"));
        }
        for sequence in [1, 2] {
            let words = encode(sequence, &json);
            medium.write((sequence as usize - 1) * HEADER_WORDS, &words)?;
        }
        Ok(())
    }

    /// Reads the newest copy that checks.
    pub(crate) fn read(medium: &impl Medium) -> io::Result<Result<Meta, String>> {
        let mut newest: Option<(u64, Vec<u8>)> = None;
        let mut why = String::from("it is too short");
        if medium.words()? >= 2 * HEADER_WORDS {
            for copy in [0, 1] {
                let mut words = [0; HEADER_WORDS];
                medium.read(copy * HEADER_WORDS, &mut words)?;
                match decode(&words) {
                    Ok((sequence, json)) if newest.as_ref().is_none_or(|(seen, _)| *seen < sequence) => {
                        newest = Some((sequence, json));
                    }
                    Ok(_) => {}
                    Err(reason) => why = reason,
                }
            }
        }
        let Some((_, json)) = newest else { return Ok(Err(why)) };
        let meta: Result<Meta, _> = serde_json::from_slice(&json);
        Ok(meta.map_err(|error| format!("its header cannot be read: {error}")).and_then(|meta| meta.sane()))
    }

    fn sane(self) -> Result<Meta, String> {
        let possible = (2..=16).contains(&self.slots_log2) && (1..=1024).contains(&self.segments_max);
        if possible { Ok(self) } else { Err("its header states impossible sizes".into()) }
    }
}

fn encode(sequence: u64, json: &[u8]) -> Vec<u64> {
    let mut bytes = Vec::with_capacity(FIXED + json.len() + WORD_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    // The oldest reader that understands it.
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(sequence.to_le_bytes());
    // Checked to fit a header by the caller.
    bytes.extend((json.len() as u32).to_le_bytes());
    let check = crc32c::crc32c_append(crc32c::crc32c(&bytes), json);
    bytes.extend(check.to_le_bytes());
    bytes.extend(json);
    bytes.resize(bytes.len().next_multiple_of(WORD_BYTES), 0);
    bytes.as_chunks::<WORD_BYTES>().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect()
}

fn decode(words: &[u64; HEADER_WORDS]) -> Result<(u64, Vec<u8>), String> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if bytes[..8] != MAGIC {
        return Err("it does not begin as one".into());
    }
    if number(12) > VERSION {
        return Err(format!("it was written for readers of version {}, and this is {VERSION}", number(12)));
    }
    let len = number(24) as usize;
    let Some(json) = bytes.get(FIXED..FIXED + len) else { return Err("its header is cut off".into()) };
    if crc32c::crc32c_append(crc32c::crc32c(&bytes[..28]), json) != number(28) {
        return Err("its header is damaged".into());
    }
    Ok((words[2], json.to_vec()))
}
