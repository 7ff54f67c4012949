DEFAULT_PLANS = "MASTProPlans"  # what mastpro plan writes
