"""Tests that start no process and yet are not quick: each takes more than half a second with all its parameters."""

SLOW = {
    "analysis/test_comparison.py": [
        "test_a_failure_counts_as_missed_and_as_the_worst_quality",
        "test_a_held_out_variant_takes_its_base_with_it",
        "test_a_missed_target_is_infinite_and_takes_part_in_the_median",
        "test_a_smaller_metric_may_be_better",
        "test_a_study_whose_ranks_died_too_often_counts_as_failures",
        "test_every_figure_of_every_kind_of_benchmark_can_be_drawn",
        "test_few_workloads_cannot_separate_and_many_can",
        "test_json_has_null_where_there_is_no_number",
        "test_nobody_wins_before_all_have_finished",
        "test_of_several_configurations_the_best_on_validation_data_counts",
        "test_seeds_of_one_tuning_are_no_independent_studies",
        "test_the_page_escapes_what_it_shows",
        "test_what_is_not_finished_says_so",
        "test_where_nobody_reaches_a_target_nobody_is_first",
        "test_where_tuning_found_nothing_every_seed_counts_as_a_failure",
        "test_workloads_without_a_target_are_in_no_score",
    ],
    "analysis/test_importance.py": [
        "test_what_moves_the_objective_comes_first",
    ],
    "analysis/test_inference.py": [
        "test_eight_workloads_cannot_separate_five_methods",
        "test_enough_workloads_separate_what_differs_and_not_what_is_equal",
        "test_equal_scores_are_not_separated",
        "test_practical_equivalence",
        "test_the_probability_of_improvement_counts_pairs",
    ],
    "analysis/test_optimizer_differences.py": [
        "test_the_report_has_the_warning",
    ],
    "analysis/test_projection.py": [
        "test_a_benchmark_is_projected_kept_and_scored",
        "test_oversubscribed_trainings_and_single_ranks_predict_no_score",
        "test_scores_are_of_one_scale_that_all_methods_can_take",
        "test_trainings_that_failed_never_meet_the_target",
        "test_what_is_refused_now_takes_the_former_predictions_away",
        "test_what_was_not_projected_is_not_scored",
    ],
    "analysis/test_replay.py": [
        "test_what_is_done_every_so_many_steps_is_met_as_often_as_it_was",
    ],
    "dashboard/pages/test_study.py": [
        "test_every_figure_can_be_drawn",
        "test_numbers_that_are_missing",
    ],
    "dashboard/test_board.py": [
        "test_few_boards_are_kept",
    ],
    "dashboard/test_drawing.py": [
        "test_a_figure_of_the_page_is_that_of_the_same_name",
        "test_every_figure_can_be_drawn",
    ],
    "dashboard/test_pages.py": [
        "test_a_listed_page_is_served_and_its_addresses_may_hold_anything",
        "test_every_page_has_a_layout",
        "test_islands_and_comparisons_can_be_drawn",
    ],
    "dashboard/test_study_report.py": [
        "test_every_kind_of_study_has_a_report",
        "test_it_shows_the_best_trials_failures_and_commands",
        "test_names_are_text",
        "test_nothing_is_loaded_from_elsewhere",
        "test_several_objectives_have_a_front",
    ],
    "dashboard/test_table.py": [
        "test_the_best_come_first_whether_the_board_is_read_or_not",
    ],
    "methods/common/test_eager.py": [
        "test_steps_are_those_of_torch_bit_for_bit",
    ],
    "methods/data_parallel/test_daso.py": [
        "test_without_delay_it_equals_ddp",
    ],
    "methods/data_parallel/test_local_sgd.py": [
        "test_one_local_step_equals_ddp",
    ],
    "methods/layer_parallel/test_admm_dual.py": [
        "test_duals_do_not_follow_a_tenfold_growth_of_rho",
        "test_duals_reach_the_joint_optimum_of_a_convex_split",
    ],
    "methods/layer_parallel/test_chain.py": [
        "test_every_chain_trains_by_every_layer_parallel_method",
    ],
    "methods/layer_parallel/test_dni.py": [
        "test_a_lead_may_be_bounded",
        "test_a_zero_start_makes_the_first_update_of_lower_groups_zero",
        "test_pairs_are_of_one_batch",
        "test_synthesizers_learn",
    ],
    "methods/layer_parallel/test_mac.py": [
        "test_bytes",
        "test_coordinates_in_16_bit_train_too",
        "test_distributed_execution_gives_the_numbers_of_one_rank",
        "test_dropout_acts_in_w_steps_only",
        "test_mu_grows_where_the_loss_does_not_fall",
        "test_no_group_minimises_rounding",
        "test_solved_coordinates_give_backprops_gradient_up_to_1_over_mu",
    ],
    "methods/low_rank/test_ab.py": [
        "test_a_warm_up_to_the_end_equals_ddp",
        "test_rate_0_and_no_cutoff_change_nothing",
    ],
    "methods/low_rank/test_factored.py": [
        "test_the_workloads_networks_multiply_through",
    ],
    "methods/parameter_server/test_eamsgd.py": [
        "test_its_best_alpha_grows_as_the_rate_falls",
        "test_without_momentum_it_equals_easgd",
    ],
    "methods/parameter_server/test_easgd_theory.py": [
        "test_stable_rates_for_many_workers_under_multiplicative_noise",
        "test_the_centers_average_has_the_optimal_variance_3_14",
        "test_the_smallest_radius_with_100_workers_is_figure_5_19s",
    ],
    "methods/test_contract.py": [
        "test_a_trial_that_is_over_leaves_nothing_behind",
        "test_every_method",
        "test_gradients_are_clipped",
    ],
    "platform/benchmark/test_benchmark_file.py": [
        "test_bundled_benchmarks_can_run",
    ],
    "platform/commands/test_reading.py": [
        "test_the_report_of_a_study",
    ],
    "platform/search/test_island.py": [
        "test_threads",
    ],
    "platform/search/test_propagators.py": [
        "test_a_resumed_search_proposes_what_the_interrupted_one_would_have",
        "test_a_sampler_learns_to_keep_away_from_what_is_refused",
        "test_proposals_stay_in_the_space_and_repeat",
        "test_several_objectives",
        "test_the_genetic_operators_find_the_optimum_of_categories",
        "test_thinking_leaves_the_threads_of_training_alone",
    ],
    "platform/search/test_search_loop.py": [
        "test_a_request_to_stop_between_trials_evaluates_nothing_more",
        "test_a_request_to_stop_ends_the_trial_which_a_resume_takes_up_again",
    ],
    "platform/study/test_warmstart.py": [
        "test_bad_input_is_refused_before_the_first_trial",
    ],
    "platform/test_cli.py": [
        "test_catalogues",
        "test_errors_come_before_anything_starts",
        "test_every_command_has_help_with_an_example",
        "test_export",
        "test_record_fills_a_store_from_a_folder",
        "test_stop_asks_what_is_running_only",
    ],
    "platform/test_stored_studies.py": [
        "test_results_can_be_listed_exported_and_compared",
    ],
    "platform/trial/test_layer_observer.py": [
        "test_layers_are_compared_with_themselves_some_epochs_before",
    ],
    "platform/trial/test_trial.py": [
        "test_a_method_that_keeps_something_for_every_sample_sees_it_as_it_is",
        "test_the_same_seed_gives_the_same_curve_and_another_seed_another",
    ],
    "platform/trial/test_worker.py": [
        "test_a_rank_that_raises_interrupts_its_peers_in_every_operation",
    ],
    "platform/workloads/test_cifar10.py": [
        "test_the_networks_of_the_low_rank_methods",
        "test_the_real_subset",
    ],
    "platform/workloads/test_ett.py": [
        "test_a_narrow_network_forecasts_and_learns",
        "test_a_table_that_is_short_or_lacks_a_series_is_refused",
        "test_targets_are_views_of_one_table",
        "test_the_sources_network_and_the_real_table",
        "test_the_split_is_in_months_and_windows_look_back_only",
    ],
    "platform/workloads/test_imagenet.py": [
        "test_crops_lie_inside_and_have_the_areas_and_ratios_that_were_asked_for",
    ],
    "platform/workloads/test_speech.py": [
        "test_spoken_digits",
    ],
    "platform/workloads/test_text_gpt.py": [
        "test_it_learns_what_words_there_are",
        "test_it_trains",
        "test_it_trains_where_an_epoch_is_passed_over_in_its_own_order",
        "test_ranks_see_what_one_rank_sees",
        "test_settings_of_large_trainings_act",
        "test_the_chain_is_transformers_network",
        "test_the_defaults_are_as_large_as_said",
        "test_the_network_is_cut_between_blocks_and_factored_inside",
        "test_weights_start_as_gpt_2s",
        "test_what_a_method_cannot_do_is_refused",
    ],
    "searchspaces/test_methods_spaces.py": [
        "test_every_gene_decodes_to_valid_hyperparameters_and_back",
    ],
    "storage/test_browse.py": [
        "test_conditions_choose_what_they_say",
        "test_what_is_asked_again_and_again_takes_an_index",
    ],
    "storage/test_store.py": [
        "test_a_lock_of_two_seconds_delays_and_loses_nothing",
        "test_a_recorder_that_fails_for_good_says_so",
        "test_a_store_that_is_not_there_yet_is_waited_for",
        "test_an_older_store_is_upgraded_after_a_copy",
        "test_readers_see_whole_batches_while_the_recorder_writes",
    ],
}
