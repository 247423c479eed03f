//! What every store does, as functions over a [`crate::harness::Backend`].

pub(crate) mod claim;
pub(crate) mod cluster;
pub(crate) mod due;
pub(crate) mod order;
pub(crate) mod principal;
pub(crate) mod queue;
pub(crate) mod received;
pub(crate) mod restart;
pub(crate) mod resume;
pub(crate) mod retained;
pub(crate) mod share;
pub(crate) mod subscription;

/// Makes a test of every behaviour, over one kind of store.
macro_rules! behaviours {
    ($backend:ty) => {
        $crate::suite::behaviours!(@ $backend, claim:
            a_new_session_is_empty_and_not_present
            a_claim_without_create_makes_no_session
            a_session_is_found_again
            an_old_owner_is_fenced_after_a_takeover
            clean_start_discards_the_session
            discard_answers_the_session_and_its_will
            a_takeover_publishes_a_will_without_delay
            a_takeover_cancels_a_will_with_delay
            a_resumed_connection_keeps_its_will
            a_takeover_ends_a_session_without_expiry
            a_released_session_refuses_its_old_owner
            release_without_expiry_discards_the_session
            sessions_have_a_bound
            a_session_that_was_made_anew_is_another
            a_claim_that_comes_too_late_has_no_effect
            a_claim_takes_nothing_from_one_that_was_asked_for_later
            a_will_waits_for_the_last_word_of_its_connection
        );
        $crate::suite::behaviours!(@ $backend, principal:
            another_principal_is_refused_and_changes_nothing
            another_principal_cannot_resume
            what_is_over_belongs_to_nobody
            who_did_not_authenticate_is_a_principal_too
            a_will_says_whose_it_is
            a_will_is_retained_as_its_principals
            a_will_is_retained_as_its_principals_after_a_restart
            a_will_that_was_dropped_is_published_by_nobody
            a_session_has_its_principal_after_a_restart
            a_principal_has_so_many_sessions
            what_a_principal_has_is_known_after_a_restart
            a_session_from_before_a_bound_counts_from_its_next_claim_on
        );
        $crate::suite::behaviours!(@ $backend, resume:
            the_last_connection_resumes_its_session_as_it_is
            a_connection_resumes_a_session_that_it_still_owns
            another_connection_cannot_resume
            a_claim_that_comes_late_takes_nothing
            a_session_that_is_gone_cannot_be_resumed
            a_session_waits_for_its_connection_before_its_timers_start
            a_session_without_expiry_waits_for_its_connection
            a_new_connection_ends_a_session_that_waited
            a_will_without_delay_is_sent_when_the_connection_did_not_go_on
            a_connect_that_is_repeated_publishes_no_will_of_its_own
            a_will_that_is_being_published_is_not_resumed
            a_session_that_waited_for_its_connection_survives_a_restart
            a_session_with_its_queue_in_memory_has_no_routes_and_no_queue
            who_resumes_knows_what_earlier_connections_may_have_got
        );
        $crate::suite::behaviours!(@ $backend, queue:
            numbers_are_dense_and_start_at_one
            pages_are_bounded_by_messages_and_bytes
            acknowledged_records_are_left_out
            acknowledging_twice_is_no_error
            a_released_record_keeps_its_number_and_loses_its_body
            a_full_queue_refuses_by_count_and_by_bytes
            a_session_that_is_gone_gets_nothing
            one_message_for_many_sessions_is_kept_for_each
            a_delivery_comes_back_as_it_was
            only_the_owner_reads_and_acknowledges
            stats_count_what_is_there
            sent_is_what_the_release_said
        );
        $crate::suite::behaviours!(@ $backend, received:
            a_repeated_qos_2_message_is_a_duplicate
            a_forgotten_identifier_may_be_used_again
            a_fenced_origin_enqueues_nothing
            received_identifiers_come_with_the_claim
        );
        $crate::suite::behaviours!(@ $backend, due:
            a_will_is_due_after_its_delay
            a_will_is_due_no_later_than_the_session_ends
            a_will_comes_again_until_it_is_finished
            an_expired_session_is_deleted_and_told
            an_expired_session_is_not_found_before_it_is_swept
            a_session_that_never_expires_is_never_due
            a_new_claim_stops_the_timers
            a_will_that_was_due_is_not_cancelled_by_a_claim
            a_will_that_a_claim_makes_due_comes_again_until_it_is_finished
            a_will_that_is_being_published_outlives_its_session
            a_session_may_leave_several_wills
            a_will_that_was_published_ends_no_other_of_its_session
            a_dropped_will_is_never_due
            what_is_due_is_taken_in_portions
            a_will_of_a_session_that_ends_at_its_release_is_due_at_once
            tails_are_told_for_sessions_that_are_there
        );
        $crate::suite::behaviours!(@ $backend, share:
            what_a_member_leaves_at_its_release_is_for_others
            what_a_member_leaves_when_it_expires_is_for_others
            what_a_member_leaves_when_it_is_discarded_is_for_others
            what_a_member_left_is_there_after_a_restart
            a_session_that_lives_on_leaves_nothing
        );
        $crate::suite::behaviours!(@ $backend, subscription:
            subscribe_and_unsubscribe_say_what_was_there
            subscriptions_come_with_the_claim
            however_much_a_session_holds_its_owner_is_told_all
            subscriptions_have_a_bound
            routes_are_listed_in_pages
            only_the_owner_subscribes
        );
        $crate::suite::behaviours!(@ $backend, retained:
            a_retained_message_is_set_replaced_and_cleared
            wildcards_match_levels
            wildcards_do_not_match_dollar_topics_at_the_first_level
            pages_of_any_size_give_everything_once
            expired_messages_are_left_out_and_forgotten
            retained_messages_have_a_bound
            retained_messages_have_so_many_bytes
            a_principal_retains_so_many_messages
            messages_of_one_topic_come_one_after_the_other
            random_filters_match_like_the_definition
        );
        $crate::suite::behaviours!(@ $backend, order:
            answers_come_in_the_order_of_the_calls
            a_page_never_overtakes_an_earlier_publish
            publishers_on_many_threads_leave_no_gap
        );
        $crate::suite::behaviours!(@ $backend, restart:
            everything_is_there_after_a_restart
            numbers_go_on_after_a_restart
            owners_are_gone_after_a_restart
            sessions_without_expiry_end_with_the_process
            timers_start_when_the_process_does
            timers_of_released_sessions_go_on
            what_may_have_been_sent_is_bounded_by_receive_maximum
            an_unfinished_will_is_due_again
            discarded_sessions_stay_gone
            incarnations_are_never_used_again
        );
    };
    (@ $backend:ty, $module:ident: $($name:ident)*) => {
        mod $module {
            $(#[test]
            fn $name() {
                $crate::suite::$module::$name::<$backend>();
            })*
        }
    };
}

pub(crate) use behaviours;
