//! How messages lie in bytes: the fields one behind the other, in the order in which they are named.

use super::{DiskInfo, DiskState, Encoding, Extent, Fault, HEADER, Message, PassKind, Role, Stage};
use crate::codec::{Decoder, Encoder, WireError, within};
use crate::limits::{self, LEAVES_PER_CHUNK};
use crate::tree::Hash;
use crate::version::Version;

impl Message {
    /// The whole frame, header and payload.
    pub fn to_frame(&self) -> Vec<u8> {
        let mut e = Encoder::default();
        self.encode(&mut e);
        let payload = e.finish();
        let mut frame = Encoder::default();
        frame.u32(payload.len() as u32).u16(self.tag()).u16(0).raw(&payload);
        frame.finish()
    }

    fn encode(&self, e: &mut Encoder) {
        match self {
            Self::PairProof { role, mac } => {
                e.u8(role.tag()).raw(mac);
            }
            Self::Join { token } => {
                e.raw(token);
            }
            Self::Hello { versions, software, machine, disks } => {
                e.u32(versions.len() as u32);
                for version in versions {
                    e.u16(*version);
                }
                e.text(software, limits::TEXT).text(machine, limits::TEXT);
                encode_disks(e, disks);
            }
            Self::Offer { version, stage, machine, disks } => {
                e.u16(*version).u8(stage.tag()).text(machine, limits::TEXT);
                encode_disks(e, disks);
            }
            Self::Assign { pairs } => {
                e.u32(pairs.len() as u32);
                for (source, target) in pairs {
                    e.u16(*source).u16(*target);
                }
            }
            Self::Begin { epoch, token, full, disks } => {
                e.u64(*epoch).raw(token).u8(u8::from(*full)).u32(disks.len() as u32);
                for disk in disks {
                    e.u16(disk.source).u16(disk.target);
                    encode_extents(e, &disk.durable);
                }
            }
            Self::StartPass { pass, kind } => {
                e.u32(*pass).u8(kind.tag());
            }
            Self::Chunk { epoch, pass, disk, index, encoding, length, node, data } => {
                e.u64(*epoch).u32(*pass).u16(*disk).u64(*index).u8(encoding.tag()).u32(*length).raw(node);
                e.raw(data);
            }
            Self::Zeroes { epoch, pass, disk, extent, unused } => {
                e.u64(*epoch).u32(*pass).u16(*disk).u64(extent.first).u64(extent.count).u8(u8::from(*unused));
            }
            Self::EndPass { pass, chunks } => {
                e.u32(*pass).u64(*chunks);
            }
            Self::Ack { pass, disk, extents } => {
                e.u32(*pass).u16(*disk);
                encode_extents(e, extents);
            }
            Self::PassDone { pass, differing } => {
                e.u32(*pass).u64(*differing);
            }
            Self::Group { pass, disk, group, node } => {
                e.u32(*pass).u16(*disk).u64(*group).raw(node);
            }
            Self::Compared { pass, disk, group, equal } => {
                e.u32(*pass).u16(*disk).u64(*group).u8(u8::from(*equal));
            }
            Self::Digests { pass, disk, group, nodes } => {
                e.u32(*pass).u16(*disk).u64(*group).u32(nodes.len() as u32);
                for node in nodes {
                    e.raw(node);
                }
            }
            Self::Wanted { pass, disk, group, chunks } => {
                e.u32(*pass).u16(*disk).u64(*group).u64(*chunks);
            }
            Self::Leaves { pass, disk, index, leaves } => {
                e.u32(*pass).u16(*disk).u64(*index);
                for leaf in leaves.iter() {
                    e.raw(leaf);
                }
            }
            Self::WantedLeaves { pass, disk, index, leaves } => {
                e.u32(*pass).u16(*disk).u64(*index).u16(*leaves);
            }
            Self::Patch { epoch, pass, disk, index, leaves, encoding, node, data } => {
                e.u64(*epoch).u32(*pass).u16(*disk).u64(*index).u16(*leaves).u8(encoding.tag()).raw(node);
                e.raw(data);
            }
            Self::Roots { roots } => {
                e.u32(roots.len() as u32);
                for root in roots {
                    e.raw(root);
                }
            }
            Self::Progress { text } => {
                e.text(text, limits::TEXT);
            }
            Self::Committed { report, signature } => {
                e.blob(report).raw(signature);
            }
            Self::Done { signature } => {
                e.u8(u8::from(signature.is_some())).raw(signature.as_ref().map_or(&[][..], |bytes| bytes));
            }
            Self::Error { fault, text } => {
                e.u8(fault.tag()).text(text, limits::TEXT);
            }
            Self::Finish { facts } => {
                e.blob(facts);
            }
            Self::Bye | Self::Ping => {}
        }
    }

    /// Reads the payload of a frame with this tag.
    pub fn decode(tag: u16, payload: &[u8]) -> Result<Self, WireError> {
        let mut d = Decoder::new(payload);
        let message = match tag {
            1 => Self::PairProof { role: Role::from_tag(d.u8("role")?)?, mac: d.array("mac")? },
            2 => Self::Join { token: d.array("token")? },
            3 => {
                let versions = list(&mut d, 64, "versions", |d| d.u16("version"))?;
                if Version::negotiate(&versions).is_none() {
                    // What follows is laid out as those versions have it: what can be said is that they are not ours.
                    let (software, machine) = (String::new(), String::new());
                    return Ok(Self::Hello { versions, software, machine, disks: Vec::new() });
                }
                Self::Hello {
                    versions,
                    software: d.name(limits::TEXT, "software")?,
                    machine: d.name(limits::TEXT, "machine")?,
                    disks: list(&mut d, limits::DISKS, "disks", decode_disk)?,
                }
            }
            4 => {
                let version = d.u16("version")?;
                if Version::negotiate(&[version]).is_none() {
                    let (stage, machine) = (Stage::Receiving, String::new());
                    return Ok(Self::Offer { version, stage, machine, disks: Vec::new() });
                }
                Self::Offer {
                    version,
                    stage: Stage::from_tag(d.u8("stage")?)?,
                    machine: d.name(limits::TEXT, "machine")?,
                    disks: list(&mut d, limits::DISKS, "disks", decode_disk)?,
                }
            }
            5 => Self::Assign {
                pairs: list(&mut d, limits::DISKS, "pairs", |d| Ok((d.u16("source")?, d.u16("target")?)))?,
            },
            6 => Self::Begin {
                epoch: d.u64("epoch")?,
                token: d.array("token")?,
                full: d.u8("full")? != 0,
                disks: list(&mut d, limits::DISKS, "disks", |d| {
                    Ok(DiskState {
                        source: d.u16("source")?,
                        target: d.u16("target")?,
                        durable: decode_extents(d)?,
                    })
                })?,
            },
            7 => Self::StartPass { pass: d.u32("pass")?, kind: PassKind::from_tag(d.u8("pass kind")?)? },
            8 => Self::Chunk {
                epoch: d.u64("epoch")?,
                pass: d.u32("pass")?,
                disk: d.u16("disk")?,
                index: chunk_index(&mut d)?,
                encoding: Encoding::from_tag(d.u8("encoding")?)?,
                length: within(u64::from(d.u32("length")?), limits::CHUNK, "length")? as u32,
                node: d.array("node")?,
                data: d.rest().to_vec(),
            },
            9 => Self::Zeroes {
                epoch: d.u64("epoch")?,
                pass: d.u32("pass")?,
                disk: d.u16("disk")?,
                extent: decode_extent(&mut d)?,
                unused: d.u8("unused")? != 0,
            },
            11 => Self::EndPass { pass: d.u32("pass")?, chunks: d.u64("chunks")? },
            12 => Self::Ack { pass: d.u32("pass")?, disk: d.u16("disk")?, extents: decode_extents(&mut d)? },
            13 => Self::PassDone { pass: d.u32("pass")?, differing: d.u64("differing")? },
            14 => Self::Digests {
                pass: d.u32("pass")?,
                disk: d.u16("disk")?,
                group: group_index(&mut d)?,
                nodes: list(&mut d, limits::GROUP as usize, "digests", |d| d.array("digest"))?,
            },
            15 => Self::Wanted {
                pass: d.u32("pass")?,
                disk: d.u16("disk")?,
                group: group_index(&mut d)?,
                chunks: d.u64("chunks")?,
            },
            24 => Self::Group {
                pass: d.u32("pass")?,
                disk: d.u16("disk")?,
                group: group_index(&mut d)?,
                node: d.array("node")?,
            },
            25 => Self::Compared {
                pass: d.u32("pass")?,
                disk: d.u16("disk")?,
                group: group_index(&mut d)?,
                equal: d.u8("equal")? != 0,
            },
            26 => {
                let (pass, disk, index) = (d.u32("pass")?, d.u16("disk")?, chunk_index(&mut d)?);
                let mut leaves = Box::new([Hash::default(); LEAVES_PER_CHUNK]);
                for leaf in leaves.iter_mut() {
                    *leaf = d.array("leaf")?;
                }
                Self::Leaves { pass, disk, index, leaves }
            }
            27 => Self::WantedLeaves {
                pass: d.u32("pass")?,
                disk: d.u16("disk")?,
                index: chunk_index(&mut d)?,
                leaves: d.u16("leaves")?,
            },
            28 => Self::Patch {
                epoch: d.u64("epoch")?,
                pass: d.u32("pass")?,
                disk: d.u16("disk")?,
                index: chunk_index(&mut d)?,
                leaves: d.u16("leaves")?,
                encoding: Encoding::from_tag(d.u8("encoding")?)?,
                node: d.array("node")?,
                data: d.rest().to_vec(),
            },
            16 => Self::Roots { roots: list(&mut d, limits::DISKS, "roots", |d| d.array("root"))? },
            17 => Self::Finish { facts: d.blob(limits::REPORT, "facts")?.to_vec() },
            18 => Self::Progress { text: d.text(limits::TEXT, "text")? },
            19 => Self::Committed {
                report: d.blob(limits::REPORT, "report")?.to_vec(),
                signature: d.array("signature")?,
            },
            20 => Self::Done {
                signature: match d.u8("signature")? {
                    0 => None,
                    1 => Some(d.array("signature")?),
                    found => return Err(WireError::Unknown { field: "signature", found: u64::from(found) }),
                },
            },
            21 => Self::Bye,
            22 => {
                Self::Error { fault: Fault::from_tag(d.u8("fault")?)?, text: d.text(limits::TEXT, "text")? }
            }
            23 => Self::Ping,
            _ => return Err(WireError::Unknown { field: "message tag", found: u64::from(tag) }),
        };
        d.end()?;
        Ok(message)
    }
}

/// Splits a frame header into payload length and tag; the length is checked against `limit`.
pub fn decode_header(header: &[u8; HEADER], limit: usize) -> Result<(usize, u16), WireError> {
    let mut d = Decoder::new(header);
    let length = within(u64::from(d.u32("frame length")?), limit as u64, "frame length")?;
    let tag = d.u16("tag")?;
    let zero = d.u16("reserved")?;
    if zero != 0 {
        return Err(WireError::Unknown { field: "reserved header bytes", found: u64::from(zero) });
    }
    Ok((length as usize, tag))
}

fn list<T>(
    d: &mut Decoder<'_>,
    limit: usize,
    field: &'static str,
    mut item: impl FnMut(&mut Decoder<'_>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let count = d.count(limit, field)?;
    (0..count).map(|_| item(d)).collect()
}

fn chunk_index(d: &mut Decoder<'_>) -> Result<u64, WireError> {
    within(d.u64("chunk index")?, limits::DISK_BYTES / limits::CHUNK, "chunk index")
}

fn group_index(d: &mut Decoder<'_>) -> Result<u64, WireError> {
    within(d.u64("group index")?, limits::DISK_BYTES / limits::CHUNK / limits::GROUP, "group index")
}

fn encode_disks(e: &mut Encoder, disks: &[DiskInfo]) {
    e.u32(disks.len() as u32);
    for disk in disks {
        e.text(&disk.path, limits::TEXT).text(&disk.serial, limits::TEXT).text(&disk.model, limits::TEXT);
        e.u64(disk.size).u32(disk.sector_size).text(&disk.refusal, limits::TEXT);
    }
}

fn decode_disk(d: &mut Decoder<'_>) -> Result<DiskInfo, WireError> {
    Ok(DiskInfo {
        path: d.name(limits::TEXT, "path")?,
        serial: d.name(limits::TEXT, "serial")?,
        model: d.name(limits::TEXT, "model")?,
        size: within(d.u64("disk size")?, limits::DISK_BYTES, "disk size")?,
        sector_size: d.u32("sector size")?,
        refusal: d.text(limits::TEXT, "refusal")?,
    })
}

fn encode_extents(e: &mut Encoder, extents: &[Extent]) {
    let extents = &extents[..extents.len().min(limits::EXTENTS)];
    e.u32(extents.len() as u32);
    for extent in extents {
        e.u64(extent.first).u64(extent.count);
    }
}

fn decode_extent(d: &mut Decoder<'_>) -> Result<Extent, WireError> {
    let first = chunk_index(d)?;
    let count = within(d.u64("extent")?, limits::DISK_BYTES / limits::CHUNK, "extent")?;
    if count == 0 {
        return Err(WireError::Unknown { field: "extent of no chunks", found: first });
    }
    Ok(Extent { first, count })
}

fn decode_extents(d: &mut Decoder<'_>) -> Result<Vec<Extent>, WireError> {
    list(d, limits::EXTENTS, "extents", decode_extent)
}
