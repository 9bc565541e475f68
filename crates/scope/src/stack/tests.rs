use super::*;
use crate::stack::room::FIRST_CHUNK_WORDS;

fn push(stack: &Stack<'_, ()>) -> u64 {
    let held = [7_u64; 4];
    stack.push(
        move |()| {
            std::hint::black_box(held);
            None
        },
        Location::caller(),
        Registration::default(),
    )
}

/// Notes its number when it runs. Of three sizes; each owns something, so that a leak is seen.
fn push_number(stack: &Stack<'_, Vec<u64>>, number: u64) -> u64 {
    fn of_size<const N: usize>(number: u64) -> impl FnOnce(&mut Vec<u64>) -> Option<BoxError> {
        let held = ([0_u64; N], Box::new(number));
        move |order| {
            order.push(*std::hint::black_box(held).1);
            None
        }
    }
    let (place, registration) = (Location::caller(), Registration::default());
    match number % 3 {
        0 => stack.push(of_size::<1>(number), place, registration),
        1 => stack.push(of_size::<9>(number), place, registration),
        _ => stack.push(of_size::<60>(number), place, registration),
    }
}

fn disarm(stack: &Stack<'_, ()>, id: u64) {
    drop(stack.take(id).unwrap());
    stack.give_back(id);
}

#[test]
fn the_room_of_what_was_disarmed_is_used_again() {
    let mut stack = Stack::new();
    for _ in 0..1000 {
        let (one, two, three) = (push(&stack), push(&stack), push(&stack));
        disarm(&stack, two);
        disarm(&stack, one);
        assert_eq!(stack.len(), 1);
        disarm(&stack, three);
    }
    assert!(stack.free.get() == Pos::START && stack.top.get() == Pos::NONE);
    assert!(stack.chunks.get_mut().len() <= 1 && stack.pop().is_none());
}

#[test]
fn under_what_stays_and_hand_over_hand_the_room_is_used_again_too() {
    let mut stack = Stack::new();
    push_number(&stack, 0);
    let mut last = push_number(&stack, 1);
    for number in 2..100_000 {
        // The next is registered before the last is disarmed.
        let next = push_number(&stack, number);
        drop(stack.take(last).unwrap());
        stack.give_back(last);
        last = next;
    }
    let top = push_number(&stack, 100_000);
    assert!(stack.sound() && stack.len() == 3);
    assert!(stack.take(last + 2).is_none() && top == last + 1);
    let room: usize = stack.chunks.get_mut().iter().map(|chunk| chunk.length).sum();
    assert!(room <= 2 * FIRST_CHUNK_WORDS, "{room} words");
    let mut order: Vec<u64> = Vec::new();
    while let Some(top) = stack.pop() {
        // SAFETY: popped just now.
        assert!(unsafe { top.run(&mut order) }.is_none());
    }
    assert_eq!(order, [100_000, 99_999, 0]);
}

#[test]
fn whatever_the_order_of_registering_disarming_and_moving_none_is_lost_or_run_twice() {
    let seed = std::env::var("EPILOGUE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| std::process::id().into());
    println!("EPILOGUE_SEED={seed}");
    let mut state = seed | 1;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for _ in 0..200 {
        let mut stack = Stack::new();
        let mut pending: Vec<(u64, u64)> = Vec::new();
        for number in 0..500_u64 {
            match random(10) {
                0..5 => {
                    let id = push_number(&stack, number);
                    pending.push((id, number));
                }
                5..9 if !pending.is_empty() => {
                    let (id, _) = pending.remove(random(pending.len()));
                    drop(stack.take(id).unwrap());
                    stack.give_back(id);
                }
                9 => stack = stack.take_all(),
                _ => {}
            }
            assert!(stack.sound());
        }
        let mut order: Vec<u64> = Vec::new();
        while let Some(top) = stack.pop() {
            // SAFETY: popped just now.
            assert!(unsafe { top.run(&mut order) }.is_none());
        }
        order.reverse();
        assert_eq!(order, pending.iter().map(|(_, number)| *number).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_still_being_dropped_keeps_its_room() {
    let stack = Stack::new();
    let (one, two) = (push(&stack), push(&stack));
    let top = stack.take(two).unwrap();
    // As the drop of what it holds could do.
    disarm(&stack, one);
    let before = stack.free.get();
    let three = push(&stack);
    assert!(stack.free.get() != before && stack.top.get() == before);
    drop(top);
    stack.give_back(two);
    disarm(&stack, three);
    assert!(stack.free.get() == Pos::START);
}
