//! Golden bytes: typed from the protocol's text, not made by our own code.

use proptest::prelude::*;

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn reply(message: &[u8]) -> Result<Reply, Malformed> {
    let head = message[..REPLY].try_into().unwrap();
    Reply::decode(head, || message[REPLY..].try_into().map_err(|_| Malformed))
}

#[test]
fn options_and_answers_have_their_bytes() {
    let go = option_message(option::GO, &go_data("ab", &[info::BLOCK_SIZE]));
    assert_eq!(
        go,
        bytes("49484156454f5054 00000007 0000000a 00000002 6162 0001 0003"),
        "IHAVEOPT, GO, 10 bytes: name of 2, one request"
    );
    assert_eq!(parse_option_header(go[..16].try_into().unwrap()), Ok((7, 10)));
    assert_eq!(parse_go(&go[16..]), Ok("ab"));
    let meta = meta_data("ab", &[ALLOCATION]);
    assert_eq!(meta, bytes("00000002 6162 00000001 0000000f 626173653a616c6c6f636174696f6e"));
    assert_eq!(parse_meta(&meta), Ok(("ab", vec![ALLOCATION])));
    let answer = answer_message(option::GO, answer::UNKNOWN, b"no");
    assert_eq!(answer, bytes("0003e889045565a9 00000007 80000006 00000002 6e6f"));
    assert_eq!(parse_answer_header(answer[..20].try_into().unwrap()), Ok((7, 0x8000_0006, 2)));
}

#[test]
fn requests_and_replies_have_their_bytes() {
    let request = Request {
        flags: REQ_ONE,
        command: command::BLOCK_STATUS,
        cookie: 0x0102_0304_0506_0708,
        offset: 1 << 40,
        length: 65536,
    };
    let wire = bytes("25609513 0008 0007 0102030405060708 0000010000000000 00010000");
    assert_eq!(request.encode().to_vec(), wire);
    assert_eq!(Request::decode(wire[..].try_into().unwrap()), Ok(request));
    let simple = Reply::Simple { error: errno::EIO, cookie: 9 };
    assert_eq!(simple.encode(), bytes("67446698 00000005 0000000000000009"));
    assert_eq!(reply(&simple.encode()), Ok(simple));
    let data = Reply::Chunk { flags: chunk::DONE, kind: chunk::DATA, cookie: 9, length: 12 };
    assert_eq!(data.encode(), bytes("668e33ef 0001 0001 0000000000000009 0000000c"));
    assert_eq!(reply(&data.encode()), Ok(data));
}

#[test]
fn block_sizes_are_bounded() {
    let parse = |minimum: u32, preferred: u32, maximum: u32| {
        let encoded = Blocks { minimum, preferred, maximum }.encode();
        Blocks::parse(Fields(&encoded[2..])).map(|blocks| blocks.maximum)
    };
    assert_eq!(parse(1, 4096, u32::MAX), Ok(MAXIMUM_BLOCK));
    assert_eq!(parse(4096, 4096, 65536), Ok(65536));
    assert_eq!(parse(4096, 65536, 10000), Ok(8192));
    let odd =
        [(0, 4096, 4096), (3, 4096, 4096), (1 << 17, 1 << 17, 1 << 20), (512, 512, 511), (512, 256, 512)];
    for (minimum, preferred, maximum) in odd {
        assert_eq!(parse(minimum, preferred, maximum), Err(Malformed), "{minimum} {preferred} {maximum}");
    }
}

#[test]
fn counts_that_lie_cost_no_memory() {
    assert_eq!(parse_meta(&bytes("00000000 ffffffff")), Err(Malformed));
    assert_eq!(parse_meta(&bytes("00000000 00000001 ffffffff 00")), Err(Malformed));
    assert_eq!(parse_go(&bytes("00000000 ffff")), Err(Malformed));
    assert_eq!(parse_go(&bytes("00000001 41 0000 00")), Err(Malformed), "a byte too many");
    assert_eq!(parse_go(&bytes("00000001 ff 0000")), Err(Malformed), "not UTF-8");
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(data in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse_go(&data);
        let _ = parse_meta(&data);
        let _ = Blocks::parse(Fields(&data));
        let mut padded = data.clone();
        padded.resize(REQUEST, 0);
        let _ = Request::decode(padded[..].try_into().unwrap());
        let _ = reply(&padded[..20]);
        let _ = parse_option_header(padded[..16].try_into().unwrap());
        let _ = parse_answer_header(padded[..20].try_into().unwrap());
    }

    #[test]
    fn requests_come_back(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) {
        let request = Request { flags, command, cookie, offset, length };
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
}
